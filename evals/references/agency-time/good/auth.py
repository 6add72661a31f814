"""Who is calling: a token in, a caller out. What the caller may do is decided in domain.py."""

import jwt
from domain import ROLES, Caller, Refused

ISSUER = "https://login.agency.example"
AUDIENCE = "agency-time"
CLAIMS = ["sub", "tenant", "role", "exp", "iss", "aud"]


def authenticate(header: str | None, secret: str) -> Caller:
    """Raises Refused (401) unless the header holds a valid token."""
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Refused("unauthorized", "a bearer token is required")
    try:
        claims = jwt.decode(
            token.strip(),
            secret,
            algorithms=["HS256"],
            audience=AUDIENCE,
            issuer=ISSUER,
            options={"require": CLAIMS},
        )
    except jwt.InvalidTokenError:
        raise Refused("unauthorized", "the token is not valid") from None
    sub, tenant, role = claims["sub"], claims["tenant"], claims["role"]
    if not all(isinstance(value, str) and value for value in (sub, tenant, role)):
        raise Refused("unauthorized", "the token is not valid")
    if role not in ROLES:
        raise Refused("unauthorized", "the token is not valid")
    return Caller(tenant, sub, role)
