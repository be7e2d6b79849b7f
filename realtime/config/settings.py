"""Reads the settings from environment variables, and checks them before anything starts.

The command line calls `Settings.from_environ(os.environ)` and hands the settings down; nothing else
of the server looks at the environment. The error for a bad value is one line that names the
variable and says what to do. It never repeats the value, which may be a secret in the wrong place.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from pydantic import ValidationError as PydanticError
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from realtime.auth.keys import (
    PUBLIC_ALGORITHMS,
    SECRET_ALGORITHMS,
    fitting_algorithms,
    load_public_key,
)
from realtime.config.checks import (
    check_algorithms,
    check_base_path,
    check_database_url,
    check_header_token,
    check_host,
    check_key_set_url,
    check_origins,
    check_public_key,
    check_secret,
    split_list,
)
from realtime.config.spelling import Misspelling, misspellings
from realtime.errors import CommandError


class SettingsError(CommandError):
    """A setting is missing or wrong. The text is one line that says what to do."""


def _number(default: float, minimum: float, maximum: float, meaning: str) -> Any:
    """A numeric field. Its error message names the range."""
    extra: JsonDict = {"range": f"{minimum} to {maximum}"}
    return Field(default, ge=minimum, le=maximum, description=meaning, json_schema_extra=extra)


def _text(default: object, meaning: str, *, shown: str = "", cure: str = "") -> Any:
    """A field of any other kind.

    Args:
        shown: what the README's table has in place of a computed default.
        cure: what to do where it is required and not set.
    """
    extra: JsonDict = {"shown": shown, "cure": cure}
    return Field(default, description=meaning, json_schema_extra=extra)


class Settings(BaseModel):
    """All settings; the attribute `max_connections` is the variable `MAX_CONNECTIONS`."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False, hide_input_in_errors=True
    )

    database_url: Annotated[SecretStr, AfterValidator(check_database_url)] = _text(
        ...,
        "Address of the database: `postgres://user:password@host:5432/name`. Add"
        " `?sslmode=require` if it is reached over a network.",
        cure="set it to postgres://user:password@host:5432/name",
    )
    database_direct_url: Annotated[SecretStr, AfterValidator(check_database_url)] = _text(
        ...,
        "Address of the same database without a pooler: LISTEN needs a connection of its own."
        " Set it if `DATABASE_URL` leads to a transaction-mode pooler.",
        shown="`DATABASE_URL`",
    )
    database_pool_size: int = _number(
        4, 1, 100, "Maximum number of connections that one process opens for its queries."
    )
    database_timeout_seconds: float = _number(
        2, 0.1, 60, "Seconds that a query may take. After that the database counts as unreachable."
    )
    listen_host: Annotated[str, AfterValidator(check_host)] | None = _text(
        None,
        "IP address to listen on, or `localhost`. Unset: all of this machine's; for `bin/dev`,"
        " `localhost`.",
    )
    port: int = _number(8000, 0, 65535, "TCP port to serve on. 0 means any free one.")
    web_concurrency: int = _number(1, 1, 64, "Number of server processes. They share the port.")
    jwt_secret: Annotated[SecretStr, AfterValidator(check_secret)] | None = _text(
        None,
        "Secret that signs the tokens, at least 32 bytes. Set exactly one of `JWT_SECRET`,"
        " `JWT_PUBLIC_KEY` and `JWT_JWKS_URL`.",
    )
    jwt_public_key: Annotated[str, AfterValidator(check_public_key)] | None = _text(
        None,
        "Public key that verifies the tokens, in PEM format. A line break may be written `\\n`.",
    )
    jwt_jwks_url: Annotated[str, AfterValidator(check_key_set_url)] | None = _text(
        None,
        "Address at which the token issuer publishes its public keys (a JWK set): https, or http"
        " on loopback.",
    )
    jwt_algorithms: Annotated[
        tuple[str, ...], BeforeValidator(split_list), AfterValidator(check_algorithms)
    ] = _text(
        ...,
        "Signature algorithms that a token may use, separated by commas.",
        shown="`HS256` with a secret, else `RS256,ES256,EdDSA`",
    )
    jwt_audience: str | None = _text(
        None,
        "Name that a token's `aud` must contain. Unset: a token with an `aud` is meant for others"
        " and is refused (RFC 7519, 4.1.3).",
    )
    jwt_issuer: str | None = _text(
        None, "Value that a token's `iss` must have. Unset: `iss` is not checked."
    )
    jwt_subject: Literal["id", "username"] = _text(
        "id", "What a token's `sub` contains: the user's `id` or their `username`."
    )
    jwt_leeway_seconds: float = _number(
        5,
        0,
        300,
        "Seconds by which the token issuer's clock may be wrong. Only the handshake uses it.",
    )
    jwt_admin_claim: str = _text(
        "admin", "Claim that makes a token an administrator's, if its value is JSON `true`."
    )
    allowed_origins: (
        Annotated[tuple[str, ...], BeforeValidator(split_list), AfterValidator(check_origins)]
        | None
    ) = _text(
        None,
        "Web origins that may connect, separated by commas, like `https://app.example.org`."
        " Unset: any origin may connect, because only a token gives access.",
    )
    max_connections: int = _number(
        10_000,
        1,
        1_000_000,
        "Maximum number of open WebSockets in one process."
        " At `/api/ws`, each may have `MAX_SUBSCRIPTIONS` subscriptions.",
    )
    max_connections_per_user: int = _number(
        100, 1, 1_000_000, "Maximum number of open WebSockets of one user, in all processes."
    )
    max_subscriptions: int = _number(
        100, 1, 10_000, "Maximum number of subscriptions of one socket at `/api/ws`."
    )
    messages_per_second: int = _number(
        20,
        1,
        10_000,
        "Messages that may come over one socket per second. A burst may be 2.5 times as large.",
    )
    max_message_bytes: int = _number(
        65_536, 1024, 16_777_216, "Largest message that a client may send, in bytes."
    )
    send_buffer_bytes: int = _number(
        4_194_304,
        65_536,
        1_073_741_824,
        "Maximum number of bytes that wait for a slow client. Above it, the client is closed"
        " with 1013.",
    )
    read_buffer_bytes: int = _number(
        67_108_864,
        4_194_304,
        17_179_869_184,
        "Maximum number of bytes that one process holds of what it reads from the log for clients"
        " that are behind. Below 12 MB, messages of many megabytes are read in smaller parts, which"
        " costs PostgreSQL more.",
    )
    carry_events: bool = _text(
        True,
        "Whether a notification of the database may carry the event itself, which is then sent at"
        " once. Otherwise each event is read from the log first. The same in all processes.",
    )
    resume_max_events: int = _number(
        10_000,
        1,
        1_000_000,
        "Maximum number of missed events that a returning client is sent. If it missed more, it"
        " is sent none and told to fetch its state.",
    )
    retention_seconds: float = _number(
        3600,
        1,
        2_592_000,
        "Seconds for which an event is kept, at least, for clients that return within this time.",
    )
    drain_seconds: float = _number(
        10,
        0,
        600,
        "Seconds over which a process that is told to stop spreads the closing of its sockets.",
    )
    token_warning_seconds: float = _number(
        60,
        0,
        3600,
        "Seconds before a token expires at which its client is warned. Where a token has less than "
        "twice this time left, its client is warned when half of that is over.",
    )
    token_expiry: Literal["socket", "handshake"] = _text(
        "socket",
        "When a token's `exp` counts: for the life of the `socket`, which closes with 4001 unless"
        " the client renews, or at the `handshake` only. In both cases a socket is closed when its"
        " user's access ends.",
    )
    echo_to_author: bool = _text(
        True,
        "Whether users are sent the messages that they wrote themselves. `false` suits a client"
        " that shows them on its own.",
    )
    metrics_token: Annotated[SecretStr, AfterValidator(check_header_token)] | None = _text(
        None, "Bearer token for `/metrics`. Unset: there is no `/metrics`, unless `CONSOLE` is on."
    )
    base_path: Annotated[str, AfterValidator(check_base_path)] = _text(
        "",
        "Path that all addresses lie under, like `/realtime`, where a proxy passes it on."
        " `/api/health`, `/health` and `/api/ready` are at the root too.",
        shown="empty",
    )
    console: bool = _text(False, "Serve the console page at `/`. Only for development.")
    log_format: Literal["text", "json"] = _text(
        "text", "Format of the log lines: `text` (key=value) or `json`."
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], BeforeValidator(str.lower)
    ] = _text(
        "info",
        "The least level of the lines that are logged: `debug`, `info`, `warning` or `error`. Of"
        " libraries, nothing below `info` is logged.",
    )

    env_file: str | None = _text(
        None,
        "File of lines `NAME=value`. Each process reads it at its start, so a reload brings new"
        " settings. It wins over the environment.",
    )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read `environ` and nothing else. Empty values count as unset, unknown names are ignored.

        Raises:
            SettingsError: the first thing that is wrong, in one line.
        """
        fields = cls.model_fields
        given = {name: environ[name.upper()] for name in fields if name.upper() in environ}
        try:
            return cls.model_validate(given)
        except PydanticError as error:
            # Not chained: what pydantic says holds the value.
            found = error.errors(include_input=False)[0]
            if found["type"] == "missing":
                raise cls.missing(str(found["loc"][0]), environ) from None
            said = _explain(found)
            slips = [str(one) for one in cls.misspelt(environ) if one.meant in said]
            raise SettingsError("; ".join([said, *slips])) from None

    @property
    def has_direct_url(self) -> bool:
        """Whether there is a second way to the database, past a pooler."""
        return self.database_direct_url != self.database_url

    @classmethod
    def missing(cls, name: str, environ: Mapping[str, str], cure: str = "") -> SettingsError:
        """The error that a setting is not set; a name that was probably meant for it is named.

        Args:
            name: the setting's, in small letters.
            cure: what to do, if not what the setting itself says.
        """
        slips = [one.given for one in cls.misspelt(environ) if one.meant == name.upper()]
        instead = f" ({', '.join(slips)} is no setting)" if slips else ""
        cure = cure or str(_extra(cls.model_fields[name])["cure"])
        return SettingsError(f"{name.upper()} is not set{instead}: {cure}")

    @classmethod
    def misspelt(cls, environ: Mapping[str, str]) -> list[Misspelling]:
        """The names in an environment that were probably meant for settings."""
        return misspellings(environ, [name.upper() for name in cls.model_fields])

    @model_validator(mode="before")
    @classmethod
    def _work_out_defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in values.items() if value not in ("", None)}
        if "database_url" in given:
            given.setdefault("database_direct_url", given["database_url"])
        given.setdefault(
            "jwt_algorithms", ("HS256",) if "jwt_secret" in given else ("RS256", "ES256", "EdDSA")
        )
        return given

    @model_validator(mode="after")
    def _one_kind_of_key(self) -> Self:
        kinds = ("jwt_secret", "jwt_public_key", "jwt_jwks_url")
        given = [kind.upper() for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(
                f"set exactly one of JWT_SECRET, JWT_PUBLIC_KEY and JWT_JWKS_URL (now: {found})"
            )
        return self

    @model_validator(mode="after")
    def _algorithms_fit_the_key(self) -> Self:
        chosen, public = set(self.jwt_algorithms), PUBLIC_ALGORITHMS
        if self.jwt_secret is None and not chosen <= public:
            raise ValueError("JWT_ALGORITHMS must not list HS256, HS384 or HS512 with public keys")
        if self.jwt_secret is not None:
            self._check_secret(chosen, len(self.jwt_secret.get_secret_value().encode()))
        if self.jwt_public_key is not None:
            fitting = fitting_algorithms(load_public_key(self.jwt_public_key))
            if not fitting & chosen:
                names = ", ".join(sorted(fitting))
                raise ValueError(f"JWT_ALGORITHMS must list what fits JWT_PUBLIC_KEY: {names}")
        return self

    @staticmethod
    def _check_secret(chosen: set[str], length: int) -> None:
        if not chosen <= set(SECRET_ALGORITHMS):
            raise ValueError("JWT_ALGORITHMS must list only HS256, HS384, HS512 with JWT_SECRET")
        least = max(SECRET_ALGORITHMS[name] for name in chosen)
        if length < least:
            raise ValueError(f"JWT_SECRET must have at least {least} bytes for JWT_ALGORITHMS")

    @property
    def message_burst(self) -> int:
        """How many messages a client may send in one burst."""
        return math.ceil(2.5 * self.messages_per_second)


def _explain(error: ErrorDetails) -> str:
    said = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return said
    name = str(error["loc"][0])
    field = Settings.model_fields[name]
    if "range" in (extra := _extra(field)):
        whole = "whole " if field.annotation is int else ""
        return f"{name.upper()} must be a {whole}number from {extra['range']}"
    if error["type"] == "bool_parsing":
        return f"{name.upper()} must be true or false"
    return f"{name.upper()} {said.replace('Input should be', 'must be')}"


def settings_table() -> str:
    """Write the settings as a Markdown table, which the README holds and a test compares."""
    rows = [
        f"| `{name.upper()}` | {_default(field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| setting | default | meaning |", "| --- | --- | --- |", *rows])


def _default(field: FieldInfo) -> str:
    if shown := _extra(field).get("shown"):
        return str(shown)
    if field.is_required():
        return "required"
    if field.default is None:
        return "unset"
    return f"`{str(field.default).lower()}`"


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
