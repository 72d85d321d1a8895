"""Malformed URLs with a password: they are refused, and no part of them is printed."""

import traceback
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from fraudops import proxies
from fraudops.audit.connection import connect
from fraudops.client import InferenceClient
from fraudops.database_url import read_database_url
from fraudops.datasets.official import Mirror, fetch
from fraudops.errors import SettingsError, StoreDownError
from fraudops.promotion.admin_client import PodAdminClient
from fraudops.promotion.ports import PodUnresponsiveError
from fraudops.registry.api import MlflowApi
from jobs.install.databases import DatabaseTarget
from services.mlflow.wait import fault

# No message may hold the words at the ends of these passwords.
PASSWORDS = [f"first{sign}last" for sign in "/?#@[]"]
# After digits, the rest of the password looks like a path, a query or a fragment.
PASSWORDS += [f"7654321{sign}last" for sign in "/?#"]
READERS: dict[str, Callable[[str], object]] = {
    "DATABASE_URL": lambda url: read_database_url(f"postgresql{url}"),
    "DATABASE_ADMIN_URL": lambda url: DatabaseTarget.of(f"postgres{url}", "DATABASE_ADMIN_URL"),
    "MLFLOW_BACKEND_STORE_URI": lambda url: fault(f"postgresql+psycopg{url}"),
    "MLFLOW_TRACKING_URI": lambda url: MlflowApi(f"http{url}", 1.0),
    "FRAUDOPS_URL": lambda url: InferenceClient(f"https{url}"),
    "FRAUDOPS_URL of a promotion": lambda url: PodAdminClient(f"http{url}", "token"),
    "--mirror": lambda url: Mirror.at(f"https{url}"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("password", PASSWORDS)
def test_an_unescaped_password_is_refused_and_none_of_it_is_printed(
    name: str, password: str
) -> None:
    with pytest.raises(SettingsError, match="percent-encode") as refused:
        READERS[name](f"://user:{password}@host.example:5432/fraud")
    assert str(refused.value).startswith(name.split()[0])
    check_quotes_nothing(refused.value)


def check_quotes_nothing(error: BaseException) -> None:
    """Check that neither the message nor the stack trace holds a part of the password."""
    shown = "".join(traceback.format_exception_only(error)) + str(error.__cause__)
    assert not [word for word in ("first", "last", "7654321") if word in shown]
    assert error.__suppress_context__ or error.__context__ is None


def test_an_escaped_password_is_accepted() -> None:
    url = "postgresql://user:a%2Fb%3Fc%23d%40e%5Bf@host.example:5432/fraud"
    assert read_database_url(url).password == "a/b?c#d@e[f"
    assert DatabaseTarget.of(url).password == "a/b?c#d@e[f"


async def test_a_port_that_asyncpg_cannot_read_is_not_quoted() -> None:
    with pytest.raises(SettingsError, match="percent-encode") as refused:
        await connect("postgresql://user:p@one.example:last,two.example:5432/fraud")
    check_quotes_nothing(refused.value)


def test_a_percent_sign_that_libpq_cannot_read_is_not_quoted() -> None:
    url = "postgresql://user:first%last@127.0.0.1:1/fraud"
    with pytest.raises(psycopg.ProgrammingError, match="last"):
        psycopg.connect(url)
    with pytest.raises(SettingsError, match="percent-encode") as refused:
        fault(url)
    check_quotes_nothing(refused.value)


@pytest.mark.parametrize("url", ["first:last@mlflow:5000", "last", "://first:last@mlflow"])
def test_a_tracking_uri_without_its_scheme_is_not_quoted(url: str) -> None:
    with pytest.raises(SettingsError, match="MLFLOW_TRACKING_URI") as refused:
        MlflowApi(url, 1.0)
    check_quotes_nothing(refused.value)


@pytest.mark.parametrize("scheme", ["http", "mlflow"])
def test_an_inference_client_shows_its_url_without_the_password(scheme: str) -> None:
    client = InferenceClient(f"{scheme}://first:last@127.0.0.1:1", timeout_seconds=1.0)
    assert client.url == f"{scheme}://127.0.0.1:1"
    with pytest.raises((SettingsError, StoreDownError)) as refused:
        client.ready()
    assert "last" not in str(refused.value)
    client.close()


async def test_an_admin_call_that_fails_shows_its_url_without_the_password() -> None:
    with pytest.raises(PodUnresponsiveError, match=r"http://127\.0\.0\.1:1/ready") as silent:
        await PodAdminClient("http://first:last@127.0.0.1:1", "token").ready()
    assert "last" not in str(silent.value)


def test_a_mirror_is_shown_without_password_and_query() -> None:
    """The query of a presigned URL lets its reader download the file."""
    mirror = Mirror.at("https://first:last@127.0.0.1:1/a.zip?signature=x")
    assert (mirror.shown, mirror.zipped) == ("https://127.0.0.1:1/a.zip", True)


@pytest.mark.parametrize("proxy", ["http://user:first/last@host:1", "last://host"])
def test_a_malformed_proxy_is_refused_and_not_quoted(
    proxy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("all_proxy", proxy)
    readers: list[Callable[[], object]] = [
        lambda: MlflowApi("http://mlflow.example.com", 1.0),
        lambda: fetch(tmp_path / "a.csv"),
    ]
    for read in readers:
        with pytest.raises(SettingsError) as refused:
            read()
        assert str(refused.value) == proxies.UNUSABLE
        check_quotes_nothing(refused.value)
