"""System 4: speech to the moving mouth or vocal tract (wav2lip form, and a cheaper form for little data)."""
