"""Pages that soundvid serves to this machine's browser (extra `web`: starlette and uvicorn)."""
