# Copyright: (c) 2026, ConnectIn operations
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import itertools
import string
from urllib.parse import quote

import pytest
from ansible_collections.connectin.rollback.plugins.module_utils import _connection
from ansible_collections.connectin.rollback.plugins.module_utils import _database_url as url
from ansible_collections.connectin.rollback.plugins.module_utils._prisma_error import PrismaError

BASE = "postgresql://app:pw@db:5432/connectin"
PLAIN = {"dbname": "connectin", "user": "app", "password": "pw", "host": "db", "port": "5432"}


def refused(text):
    with pytest.raises(PrismaError) as caught:
        url.parse(text)
    return caught.value.message


def test_a_plain_url_is_translated_without_a_remark():
    target = url.parse(BASE)
    assert (dict(target.params), target.schema, target.pgbouncer, target.notes) == (PLAIN, "", False, ())
    assert target.where == "app@db:5432/connectin"


@pytest.mark.parametrize(
    "key",
    [
        "connection_limit",
        "pool_timeout",
        "socket_timeout",
        "statement_cache_size",
        "max_connection_lifetime",
        "max_idle_connection_lifetime",
        "connect_timeout",
        "application_name",
        "sslpassword",
    ],
)
def test_what_is_only_prismas_or_the_modules_own_is_left_out_without_a_remark(key):
    target = url.parse(f"{BASE}?{key}=0")
    assert (dict(target.params), target.notes) == (PLAIN, ())


@pytest.mark.parametrize(
    ("query", "more", "note"),
    [
        ("sslmode=disable", {"sslmode": "disable"}, ""),
        ("sslmode=prefer", {"sslmode": "prefer"}, ""),
        ("sslmode=require", {"sslmode": "require"}, ""),
        ("sslmode=allow", {"sslmode": "allow"}, ""),
        ("sslmode=verify-full", {"sslmode": "verify-full"}, ""),
        ("sslmode=verify-ca&sslcert=/ca.pem", {"sslmode": "verify-ca", "sslrootcert": "/ca.pem"}, ""),
        ("sslmode=verify-full&sslrootcert=/ca.pem", {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}, ""),
        ("sslmode=no-verify", {"sslmode": "prefer"}, "sslmode is unknown"),
        ("sslmode=REQUIRE", {"sslmode": "prefer"}, "sslmode is unknown"),
        ("sslmode=require&sslcert=/ca.pem", {"sslmode": "require"}, "sslcert was left out"),
        ("sslmode=require&sslcert=ca.pem", {"sslmode": "require"}, "sslcert was left out"),
        ("sslmode=require&sslaccept=accept_invalid_certs", {"sslmode": "require"}, ""),
        (
            "sslmode=require&sslaccept=strict&sslcert=%2Fca%20x.pem",
            {"sslmode": "verify-full", "sslrootcert": "/ca x.pem"},
            "",
        ),
        ("sslmode=require&sslaccept=strict", {"sslmode": "verify-full", "sslrootcert": "system"}, ""),
        ("sslmode=require&sslaccept=Strict", {"sslmode": "verify-full", "sslrootcert": "system"}, "sslaccept is unkn"),
        ("sslaccept=strict", {"sslmode": "verify-full", "sslrootcert": "system"}, "without TLS is refused"),
        ("sslmode=disable&sslaccept=strict", {"sslmode": "disable"}, ""),
        ("channel_binding=require", {"channel_binding": "require"}, ""),
        ("channel_binding=maybe", {}, "channel_binding is unknown"),
        ("options=-c%20statement_timeout%3D5s", {"options": "-c statement_timeout=5s"}, ""),
        ("options=", {}, ""),
        ("host=/var/run/postgresql", {"host": "/var/run/postgresql"}, ""),
        ("host=%2Fvar%2Frun%2Fpostgresql", {"host": "/var/run/postgresql"}, ""),
        ("sslmode=disable&sslmode=require", {"sslmode": "require"}, ""),
        ("foo=1", {}, "parameter foo is unknown"),
        ("Foo%20Bar=1", {}, "parameters include one that is unknown"),
    ],
)
def test_a_parameter_means_what_it_means_to_prisma(query, more, note):
    target = url.parse(f"{BASE}?{query}")
    assert dict(target.params) == {**PLAIN, **more}
    assert len(target.notes) == bool(note) and all(note in each for each in target.notes)


@pytest.mark.parametrize(
    ("query", "pooled", "notes"),
    [("pgbouncer=true", True, 0), ("pgbouncer=false", False, 0), ("", False, 0), ("pgbouncer=1", True, 1)],
)
def test_a_pooler_is_remembered_and_an_unclear_value_counts_as_one(query, pooled, notes):
    target = url.parse(f"{BASE}?{query}")
    assert (target.pgbouncer, len(target.notes), dict(target.params)) == (pooled, notes, PLAIN)


@pytest.mark.parametrize(
    ("raw", "schema"),
    [("public", "public"), ('We"ird', 'We"ird'), ("We%22ird%20one", 'We"ird one'), ("", ""), ("a%26b%3Dc", "a&b=c")],
)
def test_the_schema_is_decoded_and_no_parameter_of_libpq(raw, schema):
    target = url.parse(f"{BASE}?schema={raw}&connection_limit=5")
    assert (target.schema, dict(target.params)) == (schema, PLAIN)


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("postgres://app:pw@db:5432/connectin", {}),
        ("POSTGRESQL://app:pw@db:5432/connectin", {}),
        ("  postgresql://app:pw@db:5432/connectin\n", {}),
        ("postgresql://app:pw@db/connectin", {"port": None}),
        ("postgresql://app:pw@db:/connectin", {"port": None}),
        ("postgresql://app:pw@db:5432", {"dbname": "postgres"}),
        ("postgresql://app:pw@db:5432/", {"dbname": "postgres"}),
        ("postgresql://app:pw@db:5432/connectin/more", {}),
        ("postgresql://app:pw@/connectin", {"host": "localhost", "port": None}),
        ("postgresql://app:pw@Db.Example:5432/connectin", {"host": "Db.Example"}),
        ("postgresql://app:pw@[2001:db8::ff]:5432/connectin", {"host": "2001:db8::ff"}),
        ("postgresql://app:pw@[::1]/connectin", {"host": "::1", "port": None}),
        ("postgresql://app@db:5432/connectin", {"password": None}),
        ("postgresql://app:@db:5432/connectin", {"password": None}),
        ("postgresql://us%40er%2F:pw@db:5432/connectin", {"user": "us@er/"}),
        ("postgresql://app:p%C3%A9%ff@db:5432/connectin", {"password": "p%C3%A9%ff"}),
        ("postgresql://app:pé%zz@db:5432/connectin", {"password": "pé%zz"}),
        ("postgresql://app:pw@db:5432/my%20db", {"dbname": "my db"}),
    ],
)
def test_a_form_of_the_url_is_read_as_prisma_reads_it(text, changed):
    expected = {key: value for key, value in {**PLAIN, **changed}.items() if value is not None}
    assert dict(url.parse(text).params) == expected


@pytest.mark.parametrize("character", sorted(set(string.punctuation + " é€") - set("/?#")))
def test_a_password_may_hold_it_unencoded(character):
    password = f"a{character}b"
    assert url.parse(f"postgresql://app:{password}@db/x").params["password"] == password


@pytest.mark.parametrize("character", sorted(string.printable[:95] + "é€\n\t"))
def test_a_password_may_hold_it_encoded(character):
    text = f"postgresql://app:{quote(f'a{character}b', safe='')}@db/x"
    assert url.parse(text).params["password"] == f"a{character}b"


@pytest.mark.parametrize("host", ["DB.internal", "db.internal"])
def test_a_host_is_resolved_as_told_and_its_name_kept_for_tls(host):
    params = url.parse(f"postgresql://app:pw@{host}/x", {"db.internal": "10.0.0.4"}).params
    assert (params["host"], params["hostaddr"]) == (host, "10.0.0.4")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prisma://accelerate.prisma-data.net/?api_key=secret", "starts with prisma://"),
        ("prisma+postgres://localhost:51213/?api_key=secret", "directUrl"),
        ("file:./dev.db", "SQLite"),
        ("sqlite:./dev.db", "SQLite"),
        ("mysql://u:p@h/d", "MySQL"),
        ("mongodb+srv://u:p@h/d", "MongoDB"),
        ("sqlserver://h:1433;database=d;user=u;password=secret", "SQL Server"),
        ("cockroachdb://u:p@h/d", "CockroachDB"),
        ("http://u:p@h/d", "has to start with postgresql://"),
        ("postgresql:app:pw@db/x", "has to start with postgresql://"),
        ("", "has to start with postgresql://"),
        ("DATABASE_URL=postgresql://u:p@h/d", "has to start with postgresql://"),
        ("postgresql://u:p@h1:5432,h2:5432/d", "several hosts"),
        ("postgresql://u:p@h1,h2:5432/d", "several hosts"),
        ("postgresql://u:p@/d?host=h1,h2", "several hosts"),
        ("postgresql://u:p@::1:5432/d", "host or port is malformed"),
        ("postgresql://u:p@[::1/d", "host or port is malformed"),
        ("postgresql://u:p@h:70000/d", "host or port is malformed"),
        ("postgresql://u:p@h:54x2/d", "host or port is malformed"),
        ("postgresql://h/d", "names no user"),
        ("postgresql://:secret@h/d", "names no user"),
        ("postgresql:///d?host=/run", "names no user"),
        ('"postgresql://u:p@h/d"', "quotation mark"),
        ("'postgresql://u:p@h/d'", "quotation mark"),
        ("postgresql://u:p@h/d?schema=a\n&x=1", "line break"),
        ("postgresql://u:p\x00@h/d", "control character"),
        ("postgresql://u:p%00@h/d", "NUL"),
        ("postgresql://u:p@h/d?schema=a%00", "NUL"),
        ("postgresql://u:pa#ss@h/d", "an @ follows the host"),
        ("postgresql://u:p@h/d#frag", "%23"),
        ("postgresql://u:12/34@h/d", "an @ follows the host"),
        ("postgresql://u:12?34@h/d", "an @ follows the host"),
        ("postgresql://u:p@h/d?sslidentity=c.p12&sslpassword=secret", "openssl pkcs12"),
        ("postgresql://u:p@h/d?sslmode=verify-full&sslcert=ca.pem", "absolute path"),
        ("postgresql://u:p@h/d?sslaccept=strict&sslcert=../ca.pem", "absolute path"),
    ],
)
def test_it_is_refused_with_what_to_do(text, said):
    message = refused(text)
    assert said in message and "secret" not in message
    assert message.rstrip().endswith((".", '"))', "schema=public", "'"))


SECRETS = ("sEcrEt77hunter", "12345678secret", "c0rrect,horse", "p[ss]w0rdLong", "tr0ub&dor=longer", "$ssword$word")


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "inside", ["", "/", "?", "#", "@", ":", "//", "/?", "#@", "@/", "?&", "[", "\n", " ", "%", ","]
)
def test_no_message_holds_a_part_of_the_password(secret, inside):
    half = len(secret) // 2
    password = secret[:half] + inside + secret[half:]
    shapes = [
        "postgresql://app:{}@db:5432/x?schema=y",
        "postgresql://app:{}@db:54x/x",
        "postgresql://app:{}@db,db2/x",
        "postgresql://app:{}@/x?host=",
        "postgresql://:{}@db/x",
        "postgresql:app:{}@db/x",
        "app:{}@db",
        "'postgresql://app:{}@db/x'",
        "mysql://app:{}@db/x",
        "prisma://db/?api_key={}",
        "postgresql://app:{}@",
        "postgresql://app:{}@[::1/x",
        "postgresql://app:{}@db/x?sslidentity=a&sslpassword={}",
        "postgresql://app:{}@db/x?sslaccept=strict&sslcert=a.pem",
        "postgresql://app:1{}@db/x?{}=1",
        'DATABASE_URL="postgresql://app:{}@db/x',
    ]
    told = []
    for shape in shapes:
        text = shape.replace("{}", password)
        try:
            target = url.parse(text)
            told += [*target.notes, target.where, repr(target)]
        except PrismaError as error:
            told.append(error.message)
        for env in (f"U={text}\n", f'U="{text}"\n', f"U='{text}\nV=1"):
            try:
                url.read_env(env, "U", "/srv/.env")
            except PrismaError as error:
                told.append(error.message)
    parts = {password, *(part for part in (secret[:half], secret[half:]) if len(part) > 4)}
    found = [(part, message) for part, message in itertools.product(parts, told) if part in message]
    assert told and not found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("U=x", "x"),
        ("export U=x\n", "x"),
        ("\ufeffU=x\n", "x"),
        (" U = x \n", "x"),
        ("U: x\n", "x"),
        ("A=1\r\nU=x\r\nB=2\r\n", "x"),
        ('U="x"\r\n', "x"),
        ("U=x # a comment\n", "x"),
        ("U='x' # a comment\n", "x"),
        ('U="x # y"\n', "x # y"),
        ("U='x # y'\n", "x # y"),
        ("#U=old\nU=x\n", "x"),
        ("U=old\nU=x\n", "x"),
        ('U="a\nb"\n', "a\nb"),
        ('U="a\\nb"\n', "a\nb"),
        ("U='a\\nb'\n", "a\\nb"),
        ("A='\nU=inside\n'\nU=x\n", "x"),
        ("P=pw\nU=x${P}y\n", "xpwy"),
        ('P=pw\nU="x${P}y"\n', "xpwy"),
        ("P=pw\nU='x${P}y'\n", "xpwy"),
        ("A=1\nP=p${A}\nU=${P}\n", "p1"),
        ("U=${P}x\nP=pw\n", "pwx"),
        ("U=x${P:-pw}y\n", "xpwy"),
        ("P=q\nU=x${P:-pw}y\n", "xqy"),
        ("P=\nU=x${P:-pw}y\n", "xpwy"),
        ("U=x${P-pw}y\n", "xpwy"),
        ("P=\nU=x${P-pw}y\n", "xy"),
        ("U='x$y'\n", "x$y"),
        ("U='x$$y'\n", "x$$y"),
    ],
)
def test_a_value_of_an_env_file_is_read_as_prisma_and_compose_read_it(text, value):
    assert url.read_env(text, "U", "/srv/.env") == value and url.defines(text, "U")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A=1\n", "no line U="),
        ("#U=x\n", "no line U="),
        ("U=\n", "U is empty in /srv/.env"),
        ('U=""\n', "U is empty"),
        ("\nU=x${P}y\n", "U in /srv/.env, line 2, refers with $"),
        ("U=x$word\n", "refers with $"),
        ("U=${U}\n", "refers with $"),
        ("A=${U}\nU=${A}\n", "refers with $"),
        # Compose keeps what stands behind the #, Prisma does not.
        ("U=x#y\n", "not the same to Prisma as to Docker Compose"),
        ("P=pw\nU=x$P\n", "not the same"),
        ("U=x$$y\n", "not the same"),
        ("U=`x`\n", "not the same"),
        ('U="x\\\\y"\n', "not the same"),
    ],
)
def test_a_value_that_is_missing_or_not_clear_is_refused(text, said):
    with pytest.raises(PrismaError) as caught:
        url.read_env(text, "U", "/srv/.env")
    assert said in caught.value.message


@pytest.mark.parametrize("text", ["A=1\n", "U=\n", "#U=x\n", ""])
def test_a_variable_without_a_value_is_not_defined(text):
    assert not url.defines(text, "U")


def test_an_old_libpq_is_given_the_systems_authorities(monkeypatch, tmp_path):
    params = url.parse(f"{BASE}?sslaccept=strict").params
    assert _connection.with_roots(params, 160000)["sslrootcert"] == "system"
    assert _connection.with_roots({"host": "db"}, 130000) == {"host": "db"}
    bundle = tmp_path / "bundle.crt"
    monkeypatch.setattr(_connection, "AUTHORITIES", (str(tmp_path / "none"), str(bundle)))
    with pytest.raises(PrismaError, match="ca-certificates"):
        _connection.with_roots(params, 150018)
    bundle.touch()
    assert _connection.with_roots(params, 150018)["sslrootcert"] == str(bundle)
