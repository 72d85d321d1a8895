"""The small programs that ours is held against: each is an ASGI application for uvicorn."""
