"""Small ASGI applications for uvicorn, to compare the product with."""
