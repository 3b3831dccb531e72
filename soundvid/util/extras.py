"""Optional packages: whether they are installed, and how to install them."""

from importlib.util import find_spec

from soundvid.errors import SoundvidError


def install_hint(extra: str) -> str:
    """The command that installs an extra of soundvid, for a wheel and for a clone."""
    return f"run pip install 'soundvid[{extra}]', or in a clone pip install -e '.[{extra}]'"


def need(extra: str, *modules: str) -> None:
    """Raise SoundvidError, one line, where a module that comes with `extra` is not installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        verb = "are" if len(missing) > 1 else "is"
        raise SoundvidError(f"{' and '.join(missing)} {verb} not installed, and needed for this: {install_hint(extra)}")
