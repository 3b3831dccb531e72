"""placeholder"""
def sections(run):
    return []
