"""The stages of a build, each a function of what came before: find -> parts -> pack -> publish.

The command line runs them one after the other (`soundvid.builder`); an orchestrator runs them one by one, for
single videos (`soundvid.stages.videos`). Both leave the same parts in the dataset's work folder.
"""
