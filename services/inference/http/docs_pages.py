"""The OpenAPI document, and two pages that show it."""

from services.inference.http.context import ServiceContext
from services.inference.http.messages import HttpRequest, HttpResponse

DOCUMENT = "/openapi.json"
_HTML = b"text/html; charset=utf-8"
# The pages load their scripts from a content delivery network: a browser without the internet
# shows nothing.
_PACKAGES = "https://cdn.jsdelivr.net/npm"
_SWAGGER = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fraudops</title>
<link rel="stylesheet" href="{_PACKAGES}/swagger-ui-dist@5/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{_PACKAGES}/swagger-ui-dist@5/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({{
  url: "URL",
  dom_id: "#swagger-ui",
  deepLinking: true,
}});
</script>
</body>
</html>
"""
_REDOC = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fraudops</title>
<style>body {{ margin: 0; }}</style>
</head>
<body>
<redoc spec-url="URL"></redoc>
<script src="{_PACKAGES}/redoc@2/bundles/redoc.standalone.js"></script>
</body>
</html>
"""


async def openapi_json(context: ServiceContext, request: HttpRequest) -> HttpResponse:
    serving = request.serving
    return HttpResponse(context.document(serving.model if serving else None))


async def swagger_page(context: ServiceContext, _request: HttpRequest) -> HttpResponse:
    return _page(_SWAGGER, context)


async def redoc_page(context: ServiceContext, _request: HttpRequest) -> HttpResponse:
    return _page(_REDOC, context)


def _page(page: str, context: ServiceContext) -> HttpResponse:
    # A proxy may have stripped a prefix, which the browser must send again.
    url = f"{context.limits.root_path}{DOCUMENT}"
    return HttpResponse(page.replace("URL", url).encode(), media=_HTML)
