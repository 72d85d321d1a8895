"""The search for the routes of a path."""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from services.inference.http.messages import Route

Port = Literal["public", "admin", "both"]


class FoundPath(NamedTuple):
    """The routes of one path, by method, and the parameters in the path."""

    methods: Mapping[str, Route]
    parameters: dict[str, str]

    @property
    def allowed(self) -> str:
        """The value of the header `Allow`."""
        more = ("HEAD", "OPTIONS") if "GET" in self.methods else ("OPTIONS",)
        return ", ".join((*sorted(self.methods), *more))

    @property
    def label(self) -> str:
        return next(iter(self.methods.values())).label


class RouteTable:
    """Finds routes by path. Each port has its own table, so that it knows no other route."""

    def __init__(self, routes: Iterable[Route], port: Port) -> None:
        """`port` is that on which a request came, or `both` if the service has only one."""
        self._fixed: dict[str, dict[str, Route]] = {}
        self._templates: dict[re.Pattern[str], dict[str, Route]] = {}
        for route in routes:
            if port in ("both", route.port) or route.port == "both":
                self._place(route.path)[route.method] = route
        self.methods = sorted({route.method for route in routes} | {"HEAD", "OPTIONS"})

    def find(self, path: str) -> FoundPath | None:
        """Return the routes of a decoded path; one slash at its end is ignored."""
        path = path[:-1] if path.endswith("/") else path
        if methods := self._fixed.get(path):
            return FoundPath(methods, {})
        for pattern, methods in self._templates.items():
            if match := pattern.fullmatch(path):
                return FoundPath(methods, match.groupdict())
        return None

    def _place(self, path: str) -> dict[str, Route]:
        if "{" not in path:
            return self._fixed.setdefault(path, {})
        parts = re.split(r"\{(\w+)\}", path)
        # A segment `.` or `..` could leave a folder.
        pattern = "".join(
            rf"(?P<{part}>(?!\.{{1,2}}(?:/|\Z))[^/]{{1,200}})" if odd else re.escape(part)
            for odd, part in ((index % 2, part) for index, part in enumerate(parts))
        )
        return self._templates.setdefault(re.compile(pattern), {})
