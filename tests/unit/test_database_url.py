"""The URL of a database: one text, read alike for asyncpg, psycopg and messages."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fraudops.database_url import DatabaseUrl, address, given, read_database_url
from fraudops.errors import SettingsError
from tests.support.certificates import make_authority

SEVERAL = "postgresql://u:p%40%2F@one:5432,two,[2001:db8::1]:6432/d%20b?target_session_attrs=any"


def connects_to(url: DatabaseUrl) -> dict[str, str]:
    """Return what libpq understands of the arguments for psycopg."""
    arguments = url.for_psycopg()
    for name in ("prepare_threshold", "connect_timeout"):
        del arguments[name]
    return dict(conninfo_to_dict(make_conninfo("", **arguments)))


def test_several_hosts_have_their_own_ports() -> None:
    url = read_database_url(SEVERAL)
    assert url.hosts == (("one", 5432), ("two", 5432), ("2001:db8::1", 6432))
    assert (url.user, url.password, url.database) == ("u", "p@/", "d b")
    assert url.address == "one:5432,two:5432,[2001:db8::1]:6432/d b"
    assert connects_to(url) == {
        "host": "one,two,2001:db8::1",
        "port": "5432,5432,6432",
        "user": "u",
        "password": "p@/",
        "dbname": "d b",
        "target_session_attrs": "any",
        "sslrootcert": "",
    }
    assert "p@" not in str(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@one:6432/d?sslmode=require&connect_timeout=3",
        "postgresql:///d?host=one,two&port=6432&user=u&password=p&target_session_attrs=any",
        "postgresql:///d?host=one,two&port=6432,6433&target_session_attrs=any",
        "postgresql://one/d?port=6432",
        "postgresql://u@%2Fvar%2Frun/d?application_name=x%20y",
    ],
)
def test_libpq_reads_the_same_from_the_url_and_from_the_parts(url: str) -> None:
    expected = dict(conninfo_to_dict(url))
    expected.pop("connect_timeout", None)
    actual = connects_to(read_database_url(url))
    actual.pop("sslrootcert", None)
    if expected.get("port") == "6432":
        # One port holds for all hosts, and the parts repeat it.
        assert set(actual.pop("port").split(",")) == {expected.pop("port")}
    expected.setdefault("port", actual.get("port", ""))
    assert actual == {key: value for key, value in expected.items() if value}


def test_asyncpg_gets_no_option_that_only_libpq_knows_and_no_password_in_a_url() -> None:
    url = read_database_url(
        "postgresql://u:secret@one/d?sslmode=require&connect_timeout=3&keepalives=1"
        "&channel_binding=prefer&application_name=x%20y&target_session_attrs=read-write"
    )
    arguments = url.for_asyncpg()
    assert arguments == {
        "dsn": "postgresql://?sslmode=require&application_name=x%20y"
        "&target_session_attrs=read-write",
        "user": "u",
        "password": "secret",
        "database": "d",
    }


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("sslmode=verify_full", "sslmode in NAME must be one of: disable"),
        ("target_session_attrs=prefer-standby", "target_session_attrs in NAME must be one of"),
        ("channel_binding=require", "channel_binding in NAME must be one of: disable, prefer"),
        ("require_auth=scram-sha-256", "option require_auth, which is not supported"),
        ("connect_timeout=soon", "connect_timeout in NAME must be a number"),
        ("connect_timeout=0", "connect_timeout in NAME must be a number of seconds above 0"),
        ("host=two", "NAME gives a part twice"),
        ("user=v", "NAME gives a part twice"),
        ("password_file=%00", "percent-encode"),
        ("application_name=%ff", "percent-encode"),
        ("sslrootcert=system&sslmode=require", "sslrootcert=system in NAME needs sslmode=verify-f"),
        ("sslrootcert=system&sslcrl=/a", "option sslcrl, which is not supported with sslrootcert"),
        (
            "sslrootcert=system&ssl_min_protocol_version=TLSv1.3",
            "option ssl_min_protocol_version, which is not supported with sslrootcert",
        ),
        ("sslmode", "percent-encode"),
        ("application_name=%zz", "percent-encode"),
    ],
)
def test_an_option_that_a_driver_would_ignore_or_refuse_is_named(option: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as refused:
        read_database_url(f"postgresql://u:secret@one/d?{option}", "NAME")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("hosts", ["one:0", "one:65536", "one:x", "one,,two", "::1", "one:1,two:"])
def test_a_list_of_hosts_that_cannot_be_read_is_refused(hosts: str) -> None:
    with pytest.raises(SettingsError, match="percent-encode"):
        read_database_url(f"postgresql://{hosts}/d")


@pytest.mark.parametrize(
    ("url", "seconds"),
    [
        ("postgresql://one/d", 10),
        ("postgresql://one,two/d", 5),
        ("postgresql://one,two/d?connect_timeout=3", 3),
    ],
)
def test_both_drivers_have_the_same_limit_for_the_connection_to_a_host(
    url: str, seconds: int
) -> None:
    read = read_database_url(url)
    assert (read.connect_seconds, read.for_psycopg()["connect_timeout"]) == (seconds, seconds)


def test_of_several_hosts_the_primary_is_chosen() -> None:
    """A standby that stands first would refuse each row, although the next host is the primary."""
    several = read_database_url("postgresql://one,two/d")
    assert several.options["target_session_attrs"] == "read-write"
    assert "target_session_attrs" not in read_database_url("postgresql://one/d").options


def test_a_port_stands_in_one_place() -> None:
    with pytest.raises(SettingsError, match="NAME gives a part twice"):
        read_database_url("postgresql://one:1/d?port=2", "NAME")


def test_a_client_key_with_a_password_is_read_with_the_certificates_of_the_system(
    tmp_path: Path,
) -> None:
    """Without the password, OpenSSL would ask for it on the terminal."""
    certificate, key = make_authority(tmp_path, "ca").issue(tmp_path, "client")
    secret = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"word"),
        )
    )
    url = f"postgresql://one/d?sslrootcert=system&sslcert={certificate}&sslkey={key}"
    assert "ssl" in read_database_url(f"{url}&sslpassword=word").for_asyncpg()
    with pytest.raises(SettingsError, match="file of sslcert or sslkey"):
        read_database_url(f"{url}&sslpassword=wrong").for_asyncpg()


DRIVERS: dict[str, Callable[[DatabaseUrl], dict[str, Any]]] = {
    "asyncpg": lambda url: url.for_asyncpg(),
    "psycopg": lambda url: url.for_psycopg(),
}


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("sslrootcert=/nowhere/ca.crt", "file of sslrootcert in NAME cannot be used"),
        ("sslcert=/nowhere/tls.crt", "file of sslcert or sslkey in NAME cannot be used"),
        ("password_file=/nowhere/password", "/nowhere/password, which NAME names, cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_at_the_connection_and_the_host_stays_known(
    option: str, reason: str, driver: str
) -> None:
    url = f"postgresql://u:secret@one/d?{option}"
    assert address(url) == "one:5432/d"
    with pytest.raises(SettingsError, match=reason) as refused:
        DRIVERS[driver](read_database_url(url, "NAME"))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_certificate_that_is_no_pem_is_a_wrong_setting(driver: str, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    url = read_database_url(f"postgresql://one/d?sslrootcert={tmp_path / 'ca.crt'}")
    with pytest.raises(SettingsError, match="is it PEM"):
        DRIVERS[driver](url)


@pytest.mark.parametrize("prefix", ["file:", "file://"])
def test_a_file_that_holds_the_url_is_read_each_time(prefix: str, tmp_path: Path) -> None:
    file = tmp_path / "url"
    for host in ("one", "two"):
        file.write_text(f"postgresql://u:p@{host}/d\n")
        assert read_database_url(f"{prefix}{file}").address == f"{host}:5432/d"
        assert address(f"{prefix}{file}") == f"{host}:5432/d"
    file.write_text("\n")
    with pytest.raises(SettingsError, match=f"{file}, which NAME names, is empty"):
        read_database_url(f"{prefix}{file}", "NAME")
    assert str(file) in address(f"{prefix}{file}")


@pytest.mark.parametrize("prefix", ["file:", "file://"])
def test_a_file_that_does_not_exist_is_no_given_url(prefix: str, tmp_path: Path) -> None:
    file = tmp_path / "a key"
    value = f"{prefix}{str(file).replace(' ', '%20')}"
    assert given(value) is None
    # An empty file is a mistake, which reading the URL reports.
    file.write_text("")
    assert given(value) == value
    assert given(f"{prefix}{file}/beyond") is not None


def test_a_url_is_given_and_an_empty_value_is_not() -> None:
    assert given("postgresql://one/d") == "postgresql://one/d"
    assert given("") is None
    assert given(None) is None


def test_a_file_with_the_password_replaces_that_of_the_url(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("p@/%41 \n")
    url = read_database_url(f"postgresql://u:old@one/d?password_file={file}&sslmode=require")
    for driver in DRIVERS.values():
        assert driver(url)["password"] == "p@/%41 "
    file.write_text("next")
    assert url.read_password() == "next"
    assert "password_file" not in url.options
