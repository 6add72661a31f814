"""Static criteria: what the shipped code itself shows, by parsing it, never by matching prose."""

from __future__ import annotations

import ast
import logging
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from harness.cases import Case
from harness.checks import data
from harness.records import Outcome, Verdict


@dataclass(frozen=True)
class Finding:
    """What a static check found; for `not_graded` the evidence is the reason."""

    outcome: Outcome
    evidence: str


@dataclass(frozen=True)
class Shipped:
    """An answer as the static checks see it."""

    files: Mapping[str, str]
    prose: str = ""
    """What the answer says around its files."""


Check = Callable[[Shipped], Finding]


def grade(
    case: Case,
    files: Mapping[str, str],
    trial_id: str,
    criteria: Iterable[str],
    *,
    prose: str = "",
) -> list[Verdict]:
    """One verdict for each of these criteria; the ids must be known to `CHECKS`.

    `prose` is the text around the files, where configuration may be documented too.
    """
    shipped = Shipped(files, prose)
    verdicts = []
    for criterion in criteria:
        check = CHECKS.get(criterion)
        if check is None:
            finding = Finding("not_graded", "no static check of this name")
        elif not _code(shipped):
            finding = Finding("fail", "no code")
        else:
            finding = check(shipped)
        open_ = finding.outcome == "not_graded"
        verdicts.append(
            Verdict(
                trial_id,
                criterion,
                finding.outcome,
                "" if open_ else finding.evidence,
                finding.evidence if open_ else "",
                "static",
            )
        )
    return verdicts


def is_test(path: str) -> bool:
    """Whether a file belongs to the answer's tests, which may hold made-up secrets."""
    parts = PurePosixPath(path).parts
    name = parts[-1]
    return (
        any(part in ("test", "tests", "testing") for part in parts[:-1])
        or name.startswith("test_")
        or name.endswith("_test.py")
        or name == "conftest.py"
    )


def _code(shipped: Shipped) -> dict[str, str]:
    """The Python files that run in production."""
    return {p: t for p, t in shipped.files.items() if p.endswith(".py") and not is_test(p)}


def _trees(shipped: Shipped) -> dict[str, ast.Module]:
    """The production files that parse; one that does not cannot start either."""
    trees = {}
    for path, text in _code(shipped).items():
        try:
            trees[path] = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
    return trees


# --- secrets.not_in_code ----------------------------------------------------------------------

SECRET_NAME = re.compile(
    r"(^|_)(secret|password|passwd|pwd|passphrase|pepper|token|credential|"
    r"(api|private|signing|secret|jwt|encryption|access|auth|hmac|master|shared|session|cookie)"
    r"_?key)(_?(value|default|string|bytes|raw))?$",
    re.IGNORECASE,
)
NOT_REAL = re.compile(
    r"dummy|fake|placeholder|invalid|redact|mask|sentinel|missing|unknown|header|_env$|^env_",
    re.IGNORECASE,
)
HARMLESS_VALUE = re.compile(
    r"^([A-Z][A-Z0-9]*(_[A-Z0-9]+)+|[Xx]-[\w-]+|/.*|bearer|basic|authorization|jwt|access|refresh|"
    r"\W*|\W*redacted\W*|<.*>|\{.*\}|none|null|"
    r"[a-z_]*(password|secret|token|credential|api[_-]?key)s?(_hash|_id)?)$",
    re.IGNORECASE | re.DOTALL,
)
UPPER_NAME = re.compile(r"^[A-Z][A-Z0-9]*(_[A-Z0-9]+)+$")

PRECISE_DETECTORS = (
    *("AWSKeyDetector", "AzureStorageKeyDetector", "BasicAuthDetector", "DiscordBotTokenDetector"),
    *("GitHubTokenDetector", "GitLabTokenDetector", "JwtTokenDetector", "MailchimpDetector"),
    *("NpmDetector", "OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector"),
    *("SendGridDetector", "SlackDetector", "SquareOAuthDetector", "StripeDetector"),
    *("TelegramBotTokenDetector", "TwilioKeyDetector"),
)
"""Those of detect-secrets that know a secret by its form. Its detectors of entropy and keywords
take hashes, ids and messages for secrets; names are judged here on the syntax tree instead."""

SCANNED = (".py", ".env", ".toml", ".yaml", ".yml", ".json", ".ini", ".cfg", ".conf", ".sh", ".sql")


def secrets_not_in_code(shipped: Shipped) -> Finding:
    """No secret in code or configuration files: neither by its form nor as a named literal."""
    for path, tree in _trees(shipped).items():
        for line, name in _named_secrets(tree):
            return Finding("fail", f"{path}:{line}: a secret is written in the code: {name}")
    for path, text in shipped.files.items():
        example = "example" in path or "sample" in path or "template" in path
        if is_test(path) or example or not (path.endswith(SCANNED) or "Dockerfile" in path):
            continue
        for line, kind in _known_forms(text):
            return Finding("fail", f"{path}:{line}: {kind} is written in the file")
        if PurePosixPath(path).name == ".env":
            for number, entry in enumerate(text.splitlines(), start=1):
                name, _, value = entry.partition("=")
                if SECRET_NAME.search(name.strip()) and value.strip().strip("'\""):
                    return Finding("fail", f"{path}:{number}: a secret is written in the file")
    return Finding("pass", f"no secret in {len(_code(shipped))} code files")


def _named_secrets(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each literal that is given to a name, field, key or default of a secret."""
    for node in ast.walk(tree):
        for name, value in _givings(node):
            if SECRET_NAME.search(name) and not NOT_REAL.search(name):
                literal = _literal(value)
                if literal is not None and not HARMLESS_VALUE.match(literal):
                    spaced = " " in literal.strip()
                    if not (spaced and re.search("token|credential", name, re.I)):
                        yield getattr(value, "lineno", 0), name
        if isinstance(node, ast.Call):
            variable = _environment_default(node)
            if variable is not None:
                yield node.lineno, f"default of {variable}"
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
            # os.environ.get("JWT_SECRET") or "dev-secret"
            literal = _literal(node.values[-1])
            names = [_first_text(v) for v in node.values[:-1] if isinstance(v, ast.Call)]
            for known in names:
                if literal and known and UPPER_NAME.match(known) and SECRET_NAME.search(known):
                    yield node.lineno, f"default of {known}"


def _givings(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Every (name, value) by which this node gives a value a name: also fields and defaults."""
    yield from data.named(node)
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Attribute):
                yield target.attr, node.value
            elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                yield str(target.slice.value), node.value
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        if isinstance(node.target, ast.Attribute):
            yield node.target.attr, node.value
    elif isinstance(node, ast.arguments):
        positional = [*node.posonlyargs, *node.args]
        for argument, default in zip(
            positional[len(positional) - len(node.defaults) :], node.defaults, strict=True
        ):
            yield argument.arg, default
        for argument, given in zip(node.kwonlyargs, node.kw_defaults, strict=True):
            if given is not None:
                yield argument.arg, given


def _literal(value: ast.expr) -> str | None:
    """The text of a string literal, or of one in SecretStr(…), Field(…) or ….encode()."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str | bytes):
        raw = value.value
        return raw if isinstance(raw, str) else raw.decode("utf-8", "replace")
    if isinstance(value, ast.Call):
        if isinstance(value.func, ast.Attribute) and value.func.attr == "encode":
            return _literal(value.func.value)
        called = _called(value)
        if called in ("SecretStr", "SecretBytes", "bytes", "str"):
            return _literal(value.args[0]) if value.args else None
        if called in ("Field", "field"):
            for keyword in value.keywords:
                if keyword.arg == "default":
                    return _literal(keyword.value)
            return _literal(value.args[0]) if value.args else None
    return None


def _environment_default(call: ast.Call) -> str | None:
    """The variable, if this call reads a secret one and has a text to fall back on."""
    name = _first_text(call)
    if name is None or not UPPER_NAME.match(name) or not SECRET_NAME.search(name):
        return None
    given = [*call.args[1:], *(k.value for k in call.keywords if k.arg in ("default", "fallback"))]
    for value in given:
        literal = _literal(value)
        if literal and literal.strip():
            return name
    return None


def _first_text(call: ast.expr) -> str | None:
    if isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Constant):
        value = call.args[0].value
        return value if isinstance(value, str) else None
    return None


def _called(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


_detectors_lock = threading.Lock()


def _known_forms(text: str) -> Iterator[tuple[int, str]]:
    """Line and kind of each secret that detect-secrets knows by its form."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    with _detectors_lock:
        known: dict[str, type] = get_mapping_from_secret_type_to_class()
    wanted = [kind() for kind in known.values() if kind.__name__ in PRECISE_DETECTORS]
    for number, line in enumerate(text.splitlines(), start=1):
        for detector in wanted:
            if any(_is_real(found) for found in detector.analyze_string(line)):
                yield number, f"a secret ({detector.secret_type})"


def _is_real(found: str) -> bool:
    """Not a placeholder in a URL such as ``user:password@`` or ``{user}:{password}@``."""
    return not re.search(r"^(\{.*\}|\$.*|<.*>|pass(word)?|secret|pw)$", found, re.IGNORECASE)


# --- code.static_security -----------------------------------------------------------------------

_bandit_lock = threading.Lock()


def static_security(shipped: Shipped) -> Finding:
    """Bandit finds nothing of high severity and high confidence; ``# nosec`` does not count."""
    with _bandit_lock, tempfile.TemporaryDirectory(prefix="harness-static-") as folder:
        from bandit.core import (  # type: ignore[import-untyped]
            config,
            constants,
            manager,
        )

        for noisy in ("bandit", "stevedore"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        names = {}
        for number, (path, text) in enumerate(_code(shipped).items()):
            # Names of our own: no path of an answer reaches the file system here.
            file = Path(folder) / f"{number}.py"
            file.write_text(text, encoding="utf-8")
            names[str(file)] = path
        scan = manager.BanditManager(config.BanditConfig(), "file", ignore_nosec=True)
        scan.discover_files(list(names), False)
        scan.run_tests()
        found = scan.get_issue_list(sev_level=constants.HIGH, conf_level=constants.HIGH)
    if found:
        issue = found[0]
        text = " ".join(issue.text.split())
        where = f"{names.get(issue.fname, issue.fname)}:{issue.lineno}"
        return Finding("fail", f"{where}: {issue.test_id} {text}")
    return Finding("pass", f"no finding of high severity in {len(names)} code files")


# --- config.documented --------------------------------------------------------------------------

GIVEN = {"PORT", "DATA_DIR"}
"""Variables that the request documents itself, for every service."""

NOT_CONFIGURATION = {
    *("HOME", "PATH", "PWD", "USER", "TMPDIR", "TZ", "LANG", "LC_ALL", "PYTHONPATH"),
    *("PYTHONUNBUFFERED", "PYTHONHASHSEED", "PYTEST_CURRENT_TEST", "VIRTUAL_ENV"),
}


def config_documented(shipped: Shipped) -> Finding:
    """Each variable that the code reads stands in a Markdown file, an env example or the prose."""
    trees = _trees(shipped)
    reads = environment_reads(trees.values())
    names = sorted(reads.names - GIVEN - NOT_CONFIGURATION)
    if not names:
        if reads.unresolved:
            return Finding("not_graded", "it reads variables in a way that cannot be followed")
        return Finding("pass", "it reads no variable of its own")
    text = "\n".join([shipped.prose, *_documents(shipped), *_docstrings(trees.values())])
    missing = [name for name in names if not _mentioned(name, text, reads.settings)]
    if missing:
        shown = ", ".join(missing[:6]) + (", …" if len(missing) > 6 else "")
        return Finding("fail", f"{len(missing)} of {len(names)} variables undocumented: {shown}")
    return Finding("pass", f"all {len(names)} variables are documented: {', '.join(names[:8])}")


def _documents(shipped: Shipped) -> list[str]:
    """Files for people: Markdown and text, and examples of an environment."""
    found = []
    for path, text in shipped.files.items():
        name = PurePosixPath(path).name.lower()
        env_example = "env" in name and any(w in name for w in ("example", "sample", "template"))
        if name.endswith((".md", ".rst", ".txt")) or env_example or name.startswith(".env."):
            found.append(text)
    return found


def _docstrings(trees: Iterable[ast.Module]) -> list[str]:
    return [ast.get_docstring(tree) or "" for tree in trees]


def _mentioned(name: str, text: str, settings: set[str]) -> bool:
    flags = re.IGNORECASE if name in settings else 0
    return bool(re.search(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", text, flags))


@dataclass
class Reads:
    """Environment variables that code reads."""

    names: set[str] = field(default_factory=set)
    settings: set[str] = field(default_factory=set)
    """Those of them that are fields of a settings class, whose case does not matter."""
    unresolved: bool = False
    """Whether some read names its variable in a way that is not followed here."""


def environment_reads(trees: Iterable[ast.Module]) -> Reads:
    """Follows os.environ and os.getenv, names that stand for them, helper functions that hand a
    name on, loops over literal names, and the fields of pydantic settings classes."""
    return _Reader(list(trees)).read()


class _Reader:
    """One pass over all files of an answer: a helper of one file is called in another."""

    def __init__(self, trees: list[ast.Module]) -> None:
        self._nodes = [node for tree in trees for node in ast.walk(tree)]
        self._functions = [
            n for n in self._nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        self._texts = self._literal_names()
        self._aliases: set[str] = {"environ"}
        self._helpers: dict[str, set[int]] = {}
        """Function name → positions of arguments that are names of variables."""
        self._prefixes: dict[tuple[str, int], str] = {}
        self.found = Reads()

    def read(self) -> Reads:
        self._find_aliases()
        self._find_helpers()
        for node in self._nodes:
            for name in self._named_by(node):
                resolved = self._resolve(name)
                self.found.names |= resolved
                if not resolved and not self._is_parameter(name):
                    self.found.unresolved = True
        self._settings_classes()
        return self.found

    # Which expressions are the environment.

    def _is_environment(self, node: ast.AST | None) -> bool:
        if isinstance(node, ast.Attribute):
            return node.attr == "environ" or node.attr in self._aliases - {"environ"}
        if isinstance(node, ast.Name):
            return node.id in self._aliases
        if isinstance(node, ast.Call):
            inner = node.func.value if isinstance(node.func, ast.Attribute) else None
            if _called(node) == "copy" and self._is_environment(inner):
                return True
            return _called(node) == "dict" and any(self._is_environment(a) for a in node.args)
        if isinstance(node, ast.BoolOp):
            return any(self._is_environment(value) for value in node.values)
        if isinstance(node, ast.IfExp):
            return self._is_environment(node.body) or self._is_environment(node.orelse)
        return False

    def _find_aliases(self) -> None:
        while True:
            before = len(self._aliases)
            for node in self._nodes:
                for name, value in _givings(node):
                    if self._is_environment(value):
                        self._aliases.add(name)
                if isinstance(node, ast.Call):
                    self._alias_parameters(node)
            if len(self._aliases) == before:
                return

    def _alias_parameters(self, call: ast.Call) -> None:
        """``load(os.environ)``: the function's parameter stands for the environment."""
        for position, value in enumerate(call.args):
            if self._is_environment(value):
                for function in self._functions:
                    if function.name == _called(call):
                        names = _parameters(function)
                        if position < len(names):
                            self._aliases.add(names[position])

    # Which functions hand a name on.

    def _find_helpers(self) -> None:
        while True:
            before = sum(len(found) for found in self._helpers.values())
            for function in self._functions:
                names = _parameters(function)
                for node in ast.walk(function):
                    for name in self._named_by(node):
                        used = {n.id for n in ast.walk(name) if isinstance(n, ast.Name)}
                        for position, parameter in enumerate(names):
                            if parameter in used:
                                self._helpers.setdefault(function.name, set()).add(position)
                                if isinstance(name, ast.JoinedStr):
                                    self._note_prefix(function.name, position, name)
            if sum(len(found) for found in self._helpers.values()) == before:
                return

    def _note_prefix(self, function: str, position: int, name: ast.JoinedStr) -> None:
        first = name.values[0]
        if isinstance(first, ast.Constant):
            self._prefixes[function, position] = str(first.value)

    # Which names are read.

    def _named_by(self, node: ast.AST) -> Iterator[ast.expr]:
        """The expressions that this node uses as the name of a variable."""
        if isinstance(node, ast.Subscript) and self._is_environment(node.value):
            if isinstance(node.ctx, ast.Load):
                yield node.slice
        elif isinstance(node, ast.Compare) and len(node.comparators) == 1:
            if isinstance(node.ops[0], ast.In | ast.NotIn) and self._is_environment(
                node.comparators[0]
            ):
                yield node.left
        elif isinstance(node, ast.Call):
            called = _called(node)
            holder = node.func.value if isinstance(node.func, ast.Attribute) else None
            by_method = called in ("get", "pop", "setdefault", "__getitem__")
            if called == "getenv" or (by_method and self._is_environment(holder)):
                yield from node.args[:1]
                yield from (k.value for k in node.keywords if k.arg == "key")
                return
            for position in self._helpers.get(called, ()):
                if position < len(node.args):
                    yield self._prefixed(called, position, node.args[position])
                else:
                    for function in self._functions:
                        if function.name == called:
                            name = _parameters(function)[position]
                            yield from (k.value for k in node.keywords if k.arg == name)

    def _prefixed(self, called: str, position: int, name: ast.expr) -> ast.expr:
        prefix = self._prefixes.get((called, position))
        if prefix and isinstance(name, ast.Constant) and isinstance(name.value, str):
            return ast.Constant(prefix + name.value)
        return name

    def _resolve(self, name: ast.expr) -> set[str]:
        if isinstance(name, ast.Constant):
            return {name.value} if isinstance(name.value, str) and name.value else set()
        if isinstance(name, ast.Name | ast.Attribute):
            return self._texts.get(name.id if isinstance(name, ast.Name) else name.attr, set())
        if isinstance(name, ast.JoinedStr):
            whole = {""}
            for value in name.values:
                inner = value.value if isinstance(value, ast.FormattedValue) else value
                whole = {start + text for start in whole for text in self._resolve(inner)}
            return whole
        if isinstance(name, ast.BinOp) and isinstance(name.op, ast.Add):
            return {a + b for a in self._resolve(name.left) for b in self._resolve(name.right)}
        return set()

    def _is_parameter(self, name: ast.expr) -> bool:
        """A helper's own parameter: its callers name the variable."""
        used = {n.id for n in ast.walk(name) if isinstance(n, ast.Name)}
        return any(
            position < len(_parameters(function)) and _parameters(function)[position] in used
            for function in self._functions
            for position in self._helpers.get(function.name, ())
        )

    def _literal_names(self) -> dict[str, set[str]]:
        """Names whose value is a text: constants, and loop variables over literal texts."""
        found: dict[str, set[str]] = {}
        collections: dict[str, set[str]] = {}
        for node in self._nodes:
            for name, value in _givings(node):
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    # Thread(name="worker") and {"name": "worker"} bind no variable `name`.
                    if value.value and not isinstance(node, ast.Call | ast.Dict):
                        found.setdefault(name, set()).add(value.value)
                else:
                    texts = _texts_of(value)
                    if texts:
                        collections.setdefault(name, set()).update(texts)
        for node in self._nodes:
            if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
                over = node.iter
                texts = _texts_of(over)
                if isinstance(over, ast.Call) and isinstance(over.func, ast.Attribute):
                    over = over.func.value  # FIELDS.items(), FIELDS.keys()
                if isinstance(over, ast.Name | ast.Attribute):
                    key = over.id if isinstance(over, ast.Name) else over.attr
                    texts = texts | collections.get(key, set())
                for target in ast.walk(node.target):
                    if texts and isinstance(target, ast.Name):
                        found.setdefault(target.id, set()).update(
                            text for text in texts if UPPER_NAME.match(text) or text.isupper()
                        )
        return found

    # Settings classes.

    def _settings_classes(self) -> None:
        """Fields of pydantic's BaseSettings, with env_prefix and aliases.

        https://docs.pydantic.dev/latest/concepts/pydantic_settings/
        """
        classes = [node for node in self._nodes if isinstance(node, ast.ClassDef)]
        known = {"BaseSettings"}
        while True:
            settings = [c for c in classes if {_base_name(base) for base in c.bases} & known]
            names = {c.name for c in settings}
            if names <= known:
                break
            known |= names
        for class_ in settings:
            prefix = _env_prefix(class_)
            for node in class_.body:
                if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                    continue
                name = node.target.id
                if (
                    name.startswith("_")
                    or name == "model_config"
                    or "ClassVar" in ast.dump(node.annotation)
                ):
                    continue
                aliases = _aliases(node.value)
                # With several names for one field, any of them documents it: the first stands.
                chosen = aliases[0] if aliases else (prefix + name).upper()
                self.found.names.add(chosen)
                self.found.settings.add(chosen)


def _texts_of(value: ast.AST) -> set[str]:
    """The texts of a literal list, tuple or set, or the keys (and texts) of a literal dict."""
    if isinstance(value, ast.Call) and value.args and _called(value) in ("frozenset", "tuple"):
        return _texts_of(value.args[0])
    if isinstance(value, ast.List | ast.Tuple | ast.Set):
        items: list[ast.expr] = list(value.elts)
    elif isinstance(value, ast.Dict):
        items = [*(key for key in value.keys if key is not None), *value.values]
    else:
        return set()
    found = set()
    for item in items:
        if isinstance(item, ast.Constant) and isinstance(item.value, str):
            found.add(item.value)
        elif isinstance(item, ast.Tuple | ast.List):
            found |= _texts_of(item)
    return found


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Parameters as a caller counts them: without self and cls, keyword-only ones last."""
    given = [a.arg for a in [*function.args.posonlyargs, *function.args.args]]
    if given[:1] in (["self"], ["cls"]):
        given = given[1:]
    return given + [a.arg for a in function.args.kwonlyargs]


def _base_name(base: ast.expr) -> str:
    return base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")


def _env_prefix(class_: ast.ClassDef) -> str:
    for node in ast.walk(class_):
        for name, value in _givings(node):
            if name == "env_prefix" and isinstance(value, ast.Constant):
                return str(value.value)
    return ""


def _aliases(value: ast.expr | None) -> list[str]:
    if not isinstance(value, ast.Call) or _called(value) != "Field":
        return []
    for keyword in value.keywords:
        if keyword.arg in ("validation_alias", "alias", "env"):
            return [
                node.value
                for node in ast.walk(keyword.value)
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            ]
    return []


# --- secrets.slow_hash --------------------------------------------------------------------------

PASSWORD_NAME = re.compile(r"pass(word|wd|phrase)?(?![a-z])|\bpw(d)?(?![a-z])", re.IGNORECASE)

LEAST_COST = {
    "argon2": ("memory_cost", 8 << 10),
    "bcrypt": ("rounds", 10),
    "scrypt": ("n", 1 << 14),
    "pbkdf2": ("iterations", 100_000),
}
"""Half or less of what OWASP's cheat sheet on password storage asks for: no argument about taste.

https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html
"""

SLOW_HASHES = {
    "PasswordHasher": "argon2",
    "hash_secret": "argon2",
    "hash_secret_raw": "argon2",
    "Argon2id": "argon2",
    "gensalt": "bcrypt",
    "scrypt": "scrypt",
    "Scrypt": "scrypt",
    "pbkdf2_hmac": "pbkdf2",
    "PBKDF2HMAC": "pbkdf2",
    "generate_password_hash": "scrypt",
}
COST_POSITION = {"gensalt": 0, "pbkdf2_hmac": 3, "PasswordHasher": 1, "hash_secret": 3}
COST_POSITION |= {"hash_secret_raw": 3, "Scrypt": 2, "PBKDF2HMAC": 3}


def slow_hash(shipped: Shipped) -> Finding:
    """Passwords go through argon2, bcrypt, scrypt or PBKDF2 with a sane cost, never a cipher."""
    trees = _trees(shipped)
    constants = _numbers(trees.values())
    used = ""
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or _called(node) not in SLOW_HASHES:
                continue
            name = _called(node)
            parameter, least = LEAST_COST[SLOW_HASHES[name]]
            cost = _cost(node, name, parameter, constants)
            where = f"{path}:{node.lineno}: {name}"
            if cost is not None and cost < least:
                return Finding("fail", f"{where} with {parameter}={cost}, wanted {least} or more")
            salt = next((k.value for k in node.keywords if k.arg == "salt"), None)
            if name == "pbkdf2_hmac" and len(node.args) > 2:
                salt = node.args[2]
            if salt is not None and _literal(salt):
                return Finding("fail", f"{where} with one salt for all passwords")
            used = used or where
    for path, line in _encrypted_passwords(trees):
        return Finding("fail", f"{path}:{line}: a password is encrypted, so it can be had back")
    if not used:
        return Finding("fail", "no password hash of a slow kind: argon2, bcrypt, scrypt or PBKDF2")
    return Finding("pass", used)


def _cost(call: ast.Call, name: str, parameter: str, constants: Mapping[str, int]) -> int | None:
    """The cost that is given as a number that can be read here; None for a default or a setting."""
    for keyword in call.keywords:
        if keyword.arg == parameter:
            return _number(keyword.value, constants)
        if keyword.arg == "method" and name == "generate_password_hash":
            method = _literal(keyword.value) or ""
            if method.startswith("pbkdf2:"):
                rounds = method.rpartition(":")[2]
                return int(rounds) // 8 if rounds.isdecimal() else None
    position = COST_POSITION.get(name)
    if position is not None and len(call.args) > position:
        return _number(call.args[position], constants)
    return None


def _numbers(trees: Iterable[ast.Module]) -> dict[str, int]:
    """Names that are given one whole number, wherever that is."""
    found: dict[str, int] = {}
    for tree in trees:
        for node in ast.walk(tree):
            for name, value in _givings(node):
                number = _number(value, {})
                if number is not None:
                    found[name] = min(number, found.get(name, number))
    return found


def _number(value: ast.expr, constants: Mapping[str, int]) -> int | None:
    if isinstance(value, ast.Constant):
        return value.value if type(value.value) is int else None
    if isinstance(value, ast.Name):
        return constants.get(value.id)
    if isinstance(value, ast.Attribute):
        return constants.get(value.attr)
    if isinstance(value, ast.BinOp):
        left, right = _number(value.left, constants), _number(value.right, constants)
        if left is not None and right is not None and 0 <= right < 1 << 20:
            if isinstance(value.op, ast.Mult):
                return left * right
            if isinstance(value.op, ast.Pow) and right <= 64 and abs(left) < 1 << 20:
                return int(left**right)
            if isinstance(value.op, ast.LShift) and right <= 64:
                return left << right
    return None


def _encrypted_passwords(trees: Mapping[str, ast.Module]) -> Iterator[tuple[str, int]]:
    """Calls that encrypt or decrypt something named a password, directly or through a helper."""
    functions = [
        (path, node)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    ciphers = {"encrypt", "decrypt", "encryptor", "decryptor", "encrypt_at_time"}
    helpers = {
        function.name
        for _, function in functions
        if any(isinstance(n, ast.Call) and _called(n) in ciphers for n in ast.walk(function))
    }
    for path, function in functions:
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            direct = _called(node) in ciphers
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            names = {
                n.id if isinstance(n, ast.Name) else n.attr if isinstance(n, ast.Attribute) else ""
                for value in given
                for n in ast.walk(value)
            }
            texts = {_literal(n) or "" for value in given for n in ast.walk(value)
                     if isinstance(n, ast.expr)}  # fmt: skip
            about = any(PASSWORD_NAME.search(name) for name in names | texts)
            if (direct and (about or PASSWORD_NAME.search(function.name))) or (
                _called(node) in helpers and about
            ):
                yield path, node.lineno


# --- data.migrations ----------------------------------------------------------------------------

VERSION_KEPT = re.compile(
    r"user_version|schema_?version|alembic|\bmigrations?\b|_migrations?\b|db_version",
    re.IGNORECASE,
)


def data_migrations(shipped: Shipped) -> Finding:
    """Numbered or listed steps forward and back, and SQL or a library that records the version."""
    production = {p: t for p, t in shipped.files.items() if not is_test(p)}
    found = data.find_migrations(production)
    if not found.up:
        return Finding("fail", "no schema migrations: no numbered files, no list of steps in code")
    if not found.down:
        return Finding("fail", f"the migrations ({', '.join(found.up[:3])}) have no way back")
    kept = any(
        VERSION_KEPT.search(node.value)
        for tree in _trees(shipped).values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ) or any(p.endswith(".sql") and VERSION_KEPT.search(t) for p, t in production.items())
    if not kept:
        return Finding("fail", "nothing records which migrations were applied")
    return Finding("pass", f"forward in {found.up[0]}, back in {found.down[0]}")


CHECKS: dict[str, Check] = {
    "secrets.slow_hash": slow_hash,
    "data.migrations": data_migrations,
    "secrets.not_in_code": secrets_not_in_code,
    "code.static_security": static_security,
    "config.documented": config_documented,
}
