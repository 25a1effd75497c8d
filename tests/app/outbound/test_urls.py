"""URLs: one spelling each, and every trick of spelling refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.outbound.urls import HttpUrl, MalformedUrl, parse_url

READ = [
    ("https://images.example.com/cat.jpg", "https://images.example.com/cat.jpg"),
    ("HTTPS://Images.Example.COM", "https://images.example.com/"),
    ("http://a.example:80/x", "http://a.example/x"),
    ("https://a.example:8443/x", "https://a.example:8443/x"),
    ("https://a.example:443/x?y=1&z=%20#part", "https://a.example/x?y=1&z=%20"),
    ("https://a.example?y=/../", "https://a.example/?y=/../"),
    ("https://a.example/käse 1.jpg".replace(" ", "%20"), "https://a.example/k%C3%A4se%201.jpg"),
    ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
    ("http://192.0.2.1/", "http://192.0.2.1/"),
    ("http://[2001:DB8:0:0::1]:8080/", "http://[2001:db8::1]:8080/"),
    ("http://[::ffff:7f00:1]/", "http://[::ffff:7f00:1]/"),
    ("http://localhost/", "http://localhost/"),
    ("http://my_host.example/", "http://my_host.example/"),
]


@pytest.mark.parametrize(("text", "read"), READ)
def test_what_is_read(text: str, read: str) -> None:
    assert str(parse_url(text)) == read
    assert str(parse_url(read)) == read


REFUSED = [
    # no URL, or none of ours
    *("", "cat.jpg", "/cat.jpg", "//a.example/x", "https:", "https:/a.example", "https:a.example"),
    *("file:///etc/passwd", "ftp://a.example/", "gopher://a.example/", "data:image/png;base64,xx"),
    *("javascript:alert(1)", "unix:/run/x.sock", "https://", "https:///x", "https://:80/"),
    # one host for the check, another for the connection
    *("https://a.example@b.example/", "https://a:b@c.example/", "https://@a.example/"),
    *("https://a.example\\@b.example/", "https://a.example\\.b.example/", "https:\\\\a.example"),
    *("https://a.example:80:90/", "https://a.example:/x"),
    *(
        "https://a.example b/",
        "https://a.example\t/",
        "https://a.example\n/x",
        " https://a.example",
    ),
    *("https://a\u00adb.example/", "https://a.example\x00.b/", "https://a.example/\r\nHost: b"),
    # IPv4, written as only some readers read it
    *(
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://127.0.1/",
    ),
    *("http://0177.0.0.1/", "http://127.0.0.01/", "http://1.2.3.4.5/", "http://256.1.1.1/"),
    *("http://0/", "http://0x/", "http://1.0x7f/", "http://127.0.0.1./", "http://127.0.0.0x1/"),
    # letters that become digits, dots or slashes
    *("http://①②⑦.⓪.⓪.①/", "http://127。0。0。1/", "http://ⓛocalhost/", "http://a.example\uff0fx/"),
    *(
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://bücher.example/",
        "http://a℀.example/",
        "http://\uff0561.example/",
    ),
    *("http://\u212aelvin.example/", "https://a.example/b\\c", "https://a.example/?b\\c"),
    # hosts that are none
    *("http://a.example./", "http://.a.example/", "http://a..example/", "http://%61.example/"),
    *(
        "http://-a.example/",
        "http://a-.example/",
        "http://a.ex!mple/",
        f"http://{'a' * 64}.example/",
    ),
    *(f"http://{'a.' * 130}example/", "http://[::1/", "http://::1/", "http://[a.example]/"),
    *(
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[127.0.0.1]/",
        "http://[v1.a]/",
    ),
    # ports that are none
    *(
        "http://a.example:0/",
        "http://a.example:65536/",
        "http://a.example:-1/",
        "http://a.example:x/",
    ),
    *("http://a.example:\uff18\uff10/", "http://a.example:+80/", "http://a.example:999999/"),
    "https://a.example/" + "x" * 2031,
]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(MalformedUrl) as caught:
        parse_url(text)
    assert len(str(caught.value)) > 10


def test_the_longest() -> None:
    assert len(str(parse_url("https://a.example/" + "x" * 2030))) == 2048


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_whatever_comes_is_read_as_one_host_or_not_at_all(rest: str) -> None:
    try:
        url = parse_url(f"https://{rest}")
    except MalformedUrl:
        return
    assert parse_url(str(url)) == url
    assert str(url).isascii()
    assert "@" not in url.authority


@pytest.mark.parametrize(
    ("location", "leads"),
    [
        ("/b.jpg", "https://a.example/b.jpg"),
        ("b.jpg?x", "https://a.example/dir/b.jpg?x"),
        ("../b.jpg", "https://a.example/b.jpg"),
        ("//b.example/c", "https://b.example/c"),
        (" http://b.example/c#d", "http://b.example/c"),
        ("?q", "https://a.example/dir/a.jpg?q"),
        ("käse.jpg", "https://a.example/dir/k%C3%A4se.jpg"),
    ],
)
def test_where_redirects_lead(location: str, leads: str) -> None:
    assert str(parse_url("https://a.example/dir/a.jpg").joined(location)) == leads


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "http://a@b/", "//[", "http://[::1", "http://0x7f.1/"]
)
def test_redirects_to_no_url(location: str) -> None:
    with pytest.raises(MalformedUrl):
        parse_url("https://a.example/").joined(location)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/", None),
        ("", None),
        ("/a/cat.jpg?x=/y", "cat.jpg"),
        ("/k%C3%A4se%2Fx", "käse/x"),
        ("/a/", None),
    ],
)
def test_names_of_files(path: str, name: str | None) -> None:
    assert parse_url(f"https://a.example{path}").file_name == name


def test_a_host_header_is_the_authority() -> None:
    assert parse_url("http://[::1]:8080/").authority == "[::1]:8080"
    assert parse_url("https://a.example:443/").authority == "a.example"
    assert isinstance(parse_url("http://192.0.2.1/"), HttpUrl)
