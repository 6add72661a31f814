"""The static checks of harness/grading/static.py."""

from __future__ import annotations

import textwrap

import pytest

from harness.grading import static
from harness.grading.static import Shipped


def code(text: str, **more: str) -> Shipped:
    return Shipped({"main.py": textwrap.dedent(text), **more})


# --- secrets.not_in_code ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'JWT_SECRET = "s3cr3t-value"',
        'secret = os.environ.get("JWT_SECRET", "dev-secret")',
        'key = os.getenv("SIGNING_KEY", default="changeme")',
        'key = os.environ.get("API_KEY") or "dev-key"',
        'key = env("WEBHOOK_SECRET", "dev")',
        'def connect(password="hunter2"): ...',
        'connect(user="app", password="hunter2")',
        'CONFIG = {"api_key": "abc123def"}',
        'class Settings(BaseSettings):\n    secret_key: str = "insecure"',
        'class Settings(BaseSettings):\n    jwt_secret: SecretStr = SecretStr("insecure")',
        'class Settings(BaseSettings):\n    jwt_secret: str = Field(default="insecure")',
        'app.config["SECRET_KEY"] = "dev"',
        'self.signing_key = b"0123456789"',
        'SIGNING_KEY = "0123456789".encode()',
        'url = "https://app:Zk3hd9Qm@db.example.com/"',
        'x = "AKIAIOSFODNN7EXAMPLQ"',
        'pem = """-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----"""',
    ],
)
def test_a_secret_in_the_code_is_found(text: str) -> None:
    finding = static.secrets_not_in_code(code(text))
    assert finding.outcome == "fail", text
    assert finding.evidence.startswith("main.py:")


@pytest.mark.parametrize(
    "text",
    [
        'secret = os.environ["JWT_SECRET"]',
        'secret = os.environ.get("JWT_SECRET", "")',
        'secret = os.environ.get("JWT_SECRET")\nif secret == "changeme": raise SystemExit(1)',
        'SECRET_ENV = "JWT_SECRET"',
        'API_KEY_HEADER = "X-Api-Key"',
        'token_type = "bearer"',
        'reply = {"token_type": "bearer", "token": token}',
        'PASSWORD_FIELD = "password"',
        'oauth = OAuth2PasswordBearer(tokenUrl="/token")',
        'DUMMY_PASSWORD = "not a real one"',
        'DUMMY_HASH = hasher.hash("dummy-password")',
        'WEAK = {"changeme", "secret", "password"}',
        'SQL = "SELECT password_hash FROM users"',
        'raise Problem(401, token="token expired or revoked")',
        'log.info("login", extra={"password": "[REDACTED]"})',
        'url = f"https://{user}:{password}@db"',
        'PASSWORD_MIN = "12"',
        'continuation = {"next_page_token": ""}',
        "class Settings(BaseSettings):\n    jwt_secret: str",
        'class Settings(BaseSettings):\n    jwt_secret: str = Field(alias="JWT_SECRET")',
        'ETAG = "5f4dcc3b5aa765d61d8327deb882cf99"',
    ],
)
def test_what_only_looks_like_a_secret_is_let_be(text: str) -> None:
    finding = static.secrets_not_in_code(code(text))
    assert finding.outcome == "pass", finding.evidence


def test_made_up_secrets_of_tests_and_examples_are_no_finding() -> None:
    files = {
        "main.py": "x = 1",
        "tests/test_api.py": 'JWT_SECRET = "for-the-tests"',
        "test_main.py": 'os.environ["JWT_SECRET"] = "for-the-tests"',
        ".env.example": "JWT_SECRET=change-me",
        "README.md": "JWT_SECRET=dev python main.py",
    }
    assert static.secrets_not_in_code(Shipped(files)).outcome == "pass"


def test_a_shipped_env_file_with_a_secret_is_found() -> None:
    finding = static.secrets_not_in_code(code("x = 1", **{".env": "JWT_SECRET=abc\n"}))
    assert finding.outcome == "fail"


# --- code.static_security -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "import subprocess\nsubprocess.run(f'ls {name}', shell=True)",
        "import hashlib\nhashlib.md5(password).hexdigest()",
        "import hashlib\nhashlib.md5(password).hexdigest()  # nosec",
    ],
)
def test_a_defect_of_high_severity_is_found(text: str) -> None:
    finding = static.static_security(code(text))
    assert finding.outcome == "fail"
    assert finding.evidence.startswith("main.py:2: B")


def test_low_findings_and_those_in_tests_do_not_count() -> None:
    files = {
        "main.py": "import hashlib\nassert 1\nhashlib.md5(b'', usedforsecurity=False)",
        "tests/test_a.py": "import subprocess\nsubprocess.run(x, shell=True)",
    }
    assert static.static_security(Shipped(files)).outcome == "pass"


# --- config.documented --------------------------------------------------------------------------

READS = [
    'import os\nx = os.environ["CARRIER_URL"]',
    'import os\nx = os.environ.get("CARRIER_URL", "http://x")',
    'import os\nx = os.getenv("CARRIER_URL")',
    'from os import environ, getenv\nx = environ["CARRIER_URL"]',
    'from os import getenv\nx = getenv("CARRIER_URL")',
    'import os\nenv = os.environ\nx = env.get("CARRIER_URL")',
    'import os\nNAME = "CARRIER_URL"\nx = os.environ[NAME]',
    'import os\ndef need(name):\n    return os.environ[name]\nx = need("CARRIER_URL")',
    "import os\ndef need(name):\n    return os.environ[name]\n"
    "def number(name, default):\n    return float(need(name) or default)\n"
    'x = number("CARRIER_URL", 3)',
    "import os\nclass C:\n    def _get(self, name):\n        return os.environ.get(name)\n"
    '    def load(self):\n        return self._get("CARRIER_URL")',
    'import os\ndef load(env):\n    return env["CARRIER_URL"]\nload(os.environ)',
    'import os\ndef load(env=os.environ):\n    return env["CARRIER_URL"]',
    "import os\ndef load(env=None):\n    env = os.environ if env is None else env\n"
    '    return env["CARRIER_URL"]',
    'import os\nREQUIRED = ("PORT", "CARRIER_URL")\n'
    "missing = [name for name in REQUIRED if name not in os.environ]",
    'import os\nfor name in ["CARRIER_URL"]:\n    print(os.environ[name])',
    'import os\ndef read(name):\n    return os.environ.get(f"CARRIER_{name}")\nx = read("URL")',
    "from pydantic_settings import BaseSettings\nclass S(BaseSettings):\n    carrier_url: str",
    "from pydantic_settings import BaseSettings, SettingsConfigDict\nclass S(BaseSettings):\n"
    '    model_config = SettingsConfigDict(env_prefix="CARRIER_")\n    url: str = "x"',
    "from pydantic_settings import BaseSettings\nclass S(BaseSettings):\n"
    '    url: str = Field(validation_alias="CARRIER_URL")',
    "from pydantic_settings import BaseSettings\nclass B(BaseSettings):\n    pass\n"
    'class S(B):\n    url: str = Field(alias=AliasChoices("CARRIER_URL", "URL"))',
]


@pytest.mark.parametrize("text", READS)
def test_every_way_to_read_a_variable_is_followed(text: str) -> None:
    undocumented = static.config_documented(code(text))
    assert undocumented.outcome == "fail", undocumented
    assert "CARRIER_URL" in undocumented.evidence
    documented = static.config_documented(code(text, **{"README.md": "| `CARRIER_URL` | … |"}))
    assert documented.outcome == "pass", documented


def test_a_helper_of_another_file_is_followed() -> None:
    files = {
        "config.py": "import os\ndef need(name):\n    return os.environ[name]\n",
        "main.py": "from config import need\nx = need('CARRIER_URL')\n",
    }
    assert static.config_documented(Shipped(files)).outcome == "fail"
    with_prose = Shipped(files, "It reads CARRIER_URL, the base URL of the carrier.")
    assert static.config_documented(with_prose).outcome == "pass"


@pytest.mark.parametrize("path", [".env.example", "docs/configuration.md", "env.sample"])
def test_any_document_counts(path: str) -> None:
    text = 'import os\nx = os.environ["CARRIER_URL"]'
    assert static.config_documented(code(text, **{path: "CARRIER_URL=…"})).outcome == "pass"


def test_a_longer_name_does_not_document_a_shorter_one() -> None:
    text = 'import os\nx = os.environ["CARRIER_URL"]'
    found = static.config_documented(code(text, **{"README.md": "OLD_CARRIER_URL, CARRIER_URLS"}))
    assert found.outcome == "fail"


def test_a_comment_is_no_documentation() -> None:
    text = 'import os\n# CARRIER_URL: where the carrier is\nx = os.environ["CARRIER_URL"]'
    assert static.config_documented(code(text)).outcome == "fail"


def test_the_port_and_variables_of_tests_need_no_words() -> None:
    files = {
        "main.py": 'import os\nx = os.environ["PORT"], os.environ["DATA_DIR"]',
        "tests/test_x.py": 'import os\nx = os.environ["ONLY_IN_TESTS"]',
    }
    assert static.config_documented(Shipped(files)).outcome == "pass"


def test_what_cannot_be_followed_is_not_graded() -> None:
    finding = static.config_documented(code("import os\nx = os.environ[choose()]"))
    assert finding.outcome == "not_graded"


def test_names_of_other_dictionaries_are_not_variables() -> None:
    text = 'x = config["CARRIER_URL"]\ny = request.headers.get("X_THING")'
    assert static.config_documented(code(text)).outcome == "pass"


# --- secrets.slow_hash --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "hasher = PasswordHasher()",
        "hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)",
        "digest = bcrypt.hashpw(password.encode(), bcrypt.gensalt())",
        "ROUNDS = 12\ndigest = bcrypt.hashpw(prehash(password), bcrypt.gensalt(ROUNDS))",
        "digest = hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)",
        "N = 1 << 15\ndigest = scrypt(password.encode(), salt=os.urandom(16), n=N, r=8, p=1)",
        'digest = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 600_000)',
        "kdf = PBKDF2HMAC(algorithm=SHA256(), length=32, salt=salt, iterations=480000)",
        "stored = generate_password_hash(password)",
        "hasher = PasswordHasher(time_cost=settings.argon2_time)",
        # Only the session is sealed.
        "hasher = PasswordHasher()\ndef seal(session):\n    return box.encrypt(session)",
    ],
)
def test_a_slow_hash_of_a_sane_cost_is_accepted(text: str) -> None:
    finding = static.slow_hash(code(text))
    assert finding.outcome == "pass", finding.evidence


@pytest.mark.parametrize(
    "text",
    [
        "stored = password",
        "digest = hashlib.sha256(password.encode() + salt).hexdigest()",
        "digest = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4))",
        "ROUNDS = 4\ndigest = bcrypt.hashpw(password, bcrypt.gensalt(rounds=ROUNDS))",
        "digest = hashlib.scrypt(password, salt=salt, n=2**8, r=8, p=1)",
        'digest = hashlib.pbkdf2_hmac("sha256", password, salt, 1000)',
        'digest = hashlib.pbkdf2_hmac("sha256", password, b"pepper", 600_000)',
        "hasher = PasswordHasher(memory_cost=64)",
        "hasher = PasswordHasher()\ndef keep(password):\n    return box.encrypt(password.encode())",
        "hasher = PasswordHasher()\n"
        "def seal(text):\n    return box.encrypt(text)\n"
        "def sign_up(form):\n    return seal(form.password)",
        "hasher = PasswordHasher()\ndef reveal_password(row):\n    return box.decrypt(row[3])",
    ],
)
def test_a_fast_hash_or_a_cipher_is_found(text: str) -> None:
    assert static.slow_hash(code(text)).outcome == "fail"


# --- data.migrations ----------------------------------------------------------------------------

VERSIONED = 'database.execute("PRAGMA user_version = 1")\n'
CREATE, DROP = '"CREATE TABLE a (b)"', '"DROP TABLE a"'


@pytest.mark.parametrize(
    "text",
    [
        f"MIGRATIONS = [(1, {CREATE}, {DROP})]",
        f'MIGRATIONS = [("0001_start", [{CREATE}], [{DROP}])]',
        f"MIGRATIONS = {{1: ({CREATE}, {DROP})}}",
        f'MIGRATIONS = [{{"version": 1, "up": {CREATE}, "down": {DROP}}}]',
        f'MIGRATIONS = [Migration(1, "start", up={CREATE}, down={DROP})]',
        f"def drop(db):\n    db.execute({DROP})\nMIGRATIONS = [Step(1, up=make, down=drop)]",
        f"class First:\n    def down(self, db):\n        db.execute({DROP})\nMIGRATIONS = [First]",
        f"UP_1 = {CREATE}\nDOWN_1 = {DROP}\nMIGRATIONS = [(1, UP_1, DOWN_1)]",
    ],
)
def test_steps_with_a_way_back_are_found(text: str) -> None:
    finding = static.data_migrations(code(VERSIONED + text))
    assert finding.outcome == "pass", finding.evidence


@pytest.mark.parametrize(
    "text",
    [
        f"database.execute({CREATE})",
        f"MIGRATIONS = [(1, {CREATE})]",
        f"MIGRATIONS = [(1, {CREATE})]\ndef rollback(db):\n    db.rollback()",
        f"MIGRATIONS = [(1, {CREATE})]\ndef mark_down(self):\n    self.down = True",
        f"MIGRATIONS = [(1, {CREATE})]\ndef down(db):\n    raise NotImplementedError",
    ],
)
def test_steps_without_a_way_back_are_found(text: str) -> None:
    assert static.data_migrations(code(VERSIONED + text)).outcome == "fail"


def test_steps_that_nothing_keeps_count_of_are_found() -> None:
    finding = static.data_migrations(code(f"MIGRATIONS = [(1, {CREATE}, {DROP})]"))
    assert finding.evidence == "nothing records which migrations were applied"


def test_numbered_files_need_their_way_back() -> None:
    files = {"migrations/0001_start.up.sql": "CREATE TABLE a (b);", "main.py": VERSIONED}
    assert static.data_migrations(Shipped(files)).outcome == "fail"
    files["migrations/0001_start.down.sql"] = "DROP TABLE a;"
    assert static.data_migrations(Shipped(files)).outcome == "pass"


# --- grade ----------------------------------------------------------------------------------------


def test_an_answer_without_code_fails_every_static_criterion(tmp_path: object) -> None:
    verdicts = static.grade(None, {"README.md": "words"}, "c/a/1", list(static.CHECKS))  # type: ignore[arg-type]
    assert len(verdicts) == len(static.CHECKS)
    assert {(v.outcome, v.evidence, v.how) for v in verdicts} == {("fail", "no code", "static")}
