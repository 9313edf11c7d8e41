"""Settings: `trellis.toml` plus the environment, read once, typed and validated.

This is the only module that reads either. A wrong key is an error that suggests the right one, because a
misspelt limit that is silently ignored is the most expensive kind of typo. Every value can be set from the
environment too, see `config_environment`, and the environment wins.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from trellis_pipeline.config_automation import AutomationSettings
from trellis_pipeline.config_environment import environment_layer
from trellis_pipeline.config_local import LocalSettings
from trellis_pipeline.config_products import (
    CatalogSettings,
    ImagerySettings,
    PreviewSettings,
    ProfileSettings,
    QualitySettings,
    TriageSettings,
)
from trellis_pipeline.config_purchasing import (
    AlertSettings,
    RunwareSettings,
    ServiceSettings,
    WebhookSettings,
)
from trellis_pipeline.errors import ConfigError

CONFIG_FILE = "trellis.toml"

_STRICT = ConfigDict(frozen=True, extra="forbid")


class StorageSettings(BaseModel):
    """Where artifacts go. url: `file://` (relative paths count from trellis.toml) or `s3://bucket/prefix`."""

    model_config = _STRICT
    url: str = "file://output"
    s3_endpoint: str | None = None
    s3_region: str | None = None


class LedgerSettings(BaseModel):
    """Where money is written down. url: an SQLAlchemy URL; left out, SQLite beside Dagster's own files."""

    model_config = _STRICT
    url: SecretStr | None = None


class RunSettings(BaseModel):
    """How products flow. workers: processes for CPU work, 0 for one per core."""

    model_config = _STRICT
    products_per_run: Annotated[int, Field(ge=1, le=10_000)] = 500
    in_flight: Annotated[int, Field(ge=1, le=1000)] = 8
    workers: Annotated[int, Field(ge=0, le=256)] = 0


class GenerationSection(BaseModel):
    """Which generator makes the models, and the request it gets (fields of the 3dInference document).

    results: models to buy for each product, of which the best is kept. retries: further purchases after the
    provider accepted a task and failed it.
    """

    model_config = _STRICT
    generator: Literal["draft", "runware", "local"] = "draft"
    seed: int = 42
    results: Annotated[int, Field(ge=1, le=4)] = 1
    retries: Annotated[int, Field(ge=0, le=5)] = 1
    settings: dict[str, Any] = {}


class BudgetSettings(BaseModel):
    """Caps in US dollars; None is no cap. `catalog_usd`, `run_usd` and `product_usd` apply to each one."""

    model_config = _STRICT
    total_usd: Annotated[Decimal, Field(ge=0)] | None = None
    day_usd: Annotated[Decimal, Field(ge=0)] | None = None
    catalog_usd: Annotated[Decimal, Field(ge=0)] | None = None
    run_usd: Annotated[Decimal, Field(ge=0)] | None = None
    product_usd: Annotated[Decimal, Field(ge=0)] | None = None


class Settings(BaseSettings):
    """Everything a user can set. `root` is the folder that relative paths count from.

    home: where Dagster and the ledger keep their files, unless DAGSTER_HOME or `[ledger] url` say otherwise.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="TRELLIS_", env_nested_delimiter="__"
    )

    root: Path = Path()
    home: Path = Path(".trellis")
    storage: StorageSettings = StorageSettings()
    ledger: LedgerSettings = LedgerSettings()
    run: RunSettings = RunSettings()
    imagery: ImagerySettings = ImagerySettings()
    triage: TriageSettings = TriageSettings()
    previews: PreviewSettings = PreviewSettings()
    generation: GenerationSection = GenerationSection()
    quality: QualitySettings = QualitySettings()
    budget: BudgetSettings = BudgetSettings()
    alerts: AlertSettings = AlertSettings()
    runware: RunwareSettings = RunwareSettings()
    local: LocalSettings = LocalSettings()
    service: ServiceSettings = ServiceSettings()
    webhooks: WebhookSettings = WebhookSettings()
    automation: AutomationSettings = AutomationSettings()
    catalogs: tuple[CatalogSettings, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is the base class's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_settings` has merged: file, then environment, then command line."""
        return (init_settings,)

    @pydantic.model_validator(mode="after")
    def _names_resolve(self) -> Settings:
        names = [catalog.name for catalog in self.catalogs]
        twins = {name for name in names if names.count(name) > 1}
        if twins:
            raise ValueError(f"two catalogs are named {', '.join(sorted(twins))}")
        for wanted in {self.quality.profile, *(c.profile for c in self.catalogs if c.profile)}:
            if wanted not in self.quality.profiles:
                known = ", ".join(sorted(self.quality.profiles))
                raise ValueError(f"profile {wanted!r} is not defined; [quality.profiles] has {known}")
        return self

    @property
    def home_dir(self) -> Path:
        """Absolute folder for Dagster's and the ledger's files."""
        return self._absolute(self.home)

    @property
    def dagster_home(self) -> Path:
        """DAGSTER_HOME where set, else a folder in `home_dir`."""
        return Path(os.environ.get("DAGSTER_HOME") or self.home_dir / "dagster")

    @property
    def storage_url(self) -> str:
        """The storage URL with a relative `file://` path made absolute."""
        if not self.storage.url.startswith("file://"):
            return self.storage.url
        return self._absolute(Path(self.storage.url.removeprefix("file://"))).as_uri()

    @property
    def ledger_url(self) -> str:
        """The ledger's database URL. May hold a password: never log it."""
        if self.ledger.url is not None:
            return self.ledger.url.get_secret_value()
        return f"sqlite:///{self.home_dir / 'ledger.sqlite'}"

    def catalog_source(self, catalog: CatalogSettings) -> str:
        """The catalog's source with a relative path made absolute."""
        if "://" in catalog.source:
            return catalog.source
        return str(self._absolute(Path(catalog.source)))

    def profile_for(self, catalog: CatalogSettings) -> tuple[str, ProfileSettings]:
        """Name and limits of the profile that gates this catalog."""
        name = catalog.profile or self.quality.profile
        return name, self.quality.profiles[name]

    def _absolute(self, path: Path) -> Path:
        path = path.expanduser()
        return path if path.is_absolute() else (self.root / path).absolute()


def runware_api_key() -> SecretStr:
    """RUNWARE_API_KEY from the environment. Raises ConfigError where it is not set."""
    key = os.environ.get("RUNWARE_API_KEY", "").strip()
    if not key:
        raise ConfigError(
            "RUNWARE_API_KEY is not set; put the key from https://my.runware.ai/keys into the environment"
        )
    return SecretStr(key)


def find_config(start: Path | None = None) -> Path | None:
    """TRELLIS_CONFIG where set, else the nearest trellis.toml in `start` (default: here) or above."""
    named = os.environ.get("TRELLIS_CONFIG")
    if named:
        return Path(named)
    here = (start or Path.cwd()).absolute()
    return next((d / CONFIG_FILE for d in (here, *here.parents) if (d / CONFIG_FILE).is_file()), None)


def load_settings(path: Path | None = None, overrides: dict[str, Any] | None = None) -> Settings:
    """Read settings from `path`, or from where `find_config` finds them, or defaults where nothing is found.

    overrides: values that win over file and environment, as nested mappings (command-line options).
    Raises ConfigError naming file, key and the way out.
    """
    path = path or find_config()
    data: dict[str, Any] = {"root": Path.cwd()}
    if path is not None:
        data = {"root": path.absolute().parent, **_read_toml(path)}
    try:
        for layer in (environment_layer(Settings), overrides or {}):
            data = _merged(data, layer)
        return Settings(**data)
    except pydantic.ValidationError as error:
        where = str(path) if path else "settings"
        raise ConfigError("\n".join(_explain(where, e) for e in error.errors(include_url=False))) from None


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two nested mappings in one, values of `above` winning."""
    both = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            both[key] = _merged(below[key], above[key])
    return both


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; create it or unset TRELLIS_CONFIG") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _explain(where: str, error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] != "extra_forbidden":
        # The rejected value is not repeated: it may be a secret.
        return f"{where}: {key or 'settings'}: {error['msg'].removeprefix('Value error, ')}"
    known = _known_keys(location[:-1])
    close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
    hint = f'did you mean "{close[0]}"?' if close else f"known here: {', '.join(known)}"
    return f"{where}: {key}: unknown key; {hint}"


def _known_keys(path: list[str]) -> list[str]:
    """The keys that may stand at a place in the file, found by walking the models' annotations."""
    model: Any = Settings
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model.model_fields[part].annotation
        elif hasattr(model, "__args__"):
            model = next((a for a in reversed(model.__args__) if _is_model(a)), None)
    while not _is_model(model) and hasattr(model, "__args__"):
        model = next((a for a in model.__args__ if _is_model(a)), None)
    return sorted(model.model_fields) if _is_model(model) else []


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)
