"""Settings from the environment, `TRELLIS_<SECTION>__<KEY>`, and what is probably meant as one.

A misspelt key in a file is refused; in the environment it would be silently ignored, and a budget with it.
Not every name that begins alike is ours, so only those are refused that are close to one of our settings.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from trellis_pipeline.errors import ConfigError

PREFIX = "TRELLIS_"
_REQUEST = "GENERATION__SETTINGS__"
# Names of ours that are no settings: where the file is, and what the Makefile and the tests take.
_OTHERS = frozenset({"CONFIG", "UI_PORT", "CI_VENV", "PARITY_DIR"})


def environment_layer(settings: type[BaseSettings]) -> dict[str, Any]:
    """The values that the environment gives, as nested mappings.

    Raises ConfigError for a variable that is a misspelt setting, or that cannot be read as its type.
    """
    sections = {
        name.upper(): [key.upper() for key in getattr(field.annotation, "model_fields", ())]
        for name, field in settings.model_fields.items()
    }
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX):
            _check(name, name.upper().removeprefix(PREFIX), sections)
    try:
        return dict(EnvSettingsSource(settings)())
    except SettingsError as error:
        raise ConfigError(f"environment: {error}") from None


def _check(name: str, key: str, sections: Mapping[str, Sequence[str]]) -> None:
    """sections: name of each section, with its keys, in capitals."""
    if key.startswith(_REQUEST):
        field = name[len(PREFIX + _REQUEST) :]
        raise ConfigError(
            f"environment: {name}: fields of the request go into one variable, as JSON, because their names "
            f"have capitals: {PREFIX}{_REQUEST.rstrip('_')}='{{\"{field}\": ...}}'"
        )
    section, separator, rest = key.partition("__")
    if section in sections or key in _OTHERS:
        return
    # One underscore for two is the usual mistake: BUDGET_TOTAL_USD.
    meant = next((f"{known}__{one}" for known, keys in sections.items() for one in keys
                  if key == f"{known}_{one}"), "")  # fmt: skip
    close = difflib.get_close_matches(section, list(sections), n=1, cutoff=0.75)
    if not meant and close:
        meant = f"{close[0]}{separator}{rest}"
    if meant:
        raise ConfigError(f"environment: {name} is no setting; did you mean {PREFIX}{meant}?")
