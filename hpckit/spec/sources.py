"""From files, included files, `-s` settings and environment variables to one tree of nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpckit import yamlio
from hpckit.errors import HpckitError, Problem
from hpckit.model.kinds import complain, did_you_mean, in_full, nearly

DEPTH_LIMIT = 8
FILES_LIMIT = 64
STEPS_LIMIT = 32
PROFILES = Path(__file__).parent.parent / "slurm_files" / "profiles"

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# Names below these are dotted themselves, so the rest of a path is one name.
_DOTTED = (("sweep", "grid"), ("sweep", "zip"), ("heal", "*", "change"))
# A rule of the user's own, in a file, and perhaps a setting of it.
_OWN_RULE = re.compile(r"monitor\.rules\.([^:]+\.py:[A-Za-z0-9_]+)(?:\.(.+))?")
# The shell fills in variables here, on the node where the program runs.
_SHELL = (("program",), ("environment", "setup"), ("hooks",))


class Sources:
    """Reads a spec with all that it includes."""

    def __init__(self, environ: Mapping[str, str], problems: list[Problem]) -> None:
        self.environ = environ
        self.problems = problems
        self.opened = 0

    def spec(self, path: Path, includes: Sequence[str]) -> yamlio.Node | None:
        """The spec with its included files merged under it, and those named on the command line
        over the spec's own."""
        node = self._parsed(yamlio.read_bytes(path), str(path))
        if not isinstance(node, yamlio.Mapping):
            return node
        flags = [yamlio.Scalar("--cluster", 1, 1, each, False) for each in includes]
        trail = [path.resolve()]
        base = self._merged_includes(node, path.parent, trail)
        for flag in flags:
            base = _over(base, self._included(flag, Path(), trail))
        return _over(base, node)

    def _merged_includes(
        self, node: yamlio.Mapping, folder: Path, trail: list[Path]
    ) -> yamlio.Mapping | None:
        """What a file includes, later ones over earlier ones; the mention itself is taken out."""
        named = node.pairs.pop("include", None)
        node.keys.pop("include", None)
        base: yamlio.Mapping | None = None
        if named is None or yamlio.is_null(named):
            return None
        for each in named.items if isinstance(named, yamlio.Sequence) else [named]:
            if isinstance(each, yamlio.Scalar) and each.text:
                base = _over(base, self._included(each, folder, trail))
            else:
                complain(self.problems, each, "include", "must be a file or a profile's name")
        return base

    def _included(
        self, name: yamlio.Scalar, folder: Path, trail: list[Path]
    ) -> yamlio.Mapping | None:
        path = self._path(name, folder)
        if path is None:
            return None
        real = path.resolve()
        self.opened += 1
        if real in trail:
            chain = " -> ".join(each.name for each in [*trail[trail.index(real) :], real])
            return self._refuse(name, f"includes itself: {chain}")
        if len(trail) > DEPTH_LIMIT or self.opened > FILES_LIMIT:
            return self._refuse(
                name, f"more than {DEPTH_LIMIT} levels or {FILES_LIMIT} files of includes"
            )
        try:
            node = self._parsed(yamlio.read_bytes(path), str(path))
        except HpckitError as error:
            return self._refuse(name, error.message)
        return self._fragment(node, path, [*trail, real])

    def _fragment(
        self, node: yamlio.Node | None, path: Path, trail: list[Path]
    ) -> yamlio.Mapping | None:
        if not isinstance(node, yamlio.Mapping):
            if node is not None and not yamlio.is_null(node):
                complain(self.problems, node, "", "an included file must be a mapping")
            return None
        for key in ("name", "program"):
            if key in node.pairs:
                message = "an included file gives sections, but no name and no program"
                complain(self.problems, node.keys[key], key, message)
                del node.pairs[key], node.keys[key]
        return _over(self._merged_includes(node, path.parent, trail), node)

    def _path(self, name: yamlio.Scalar, folder: Path) -> Path | None:
        text = name.text
        if "/" in text or text.endswith((".yaml", ".yml")):
            try:
                return folder / Path(text).expanduser()
            except RuntimeError:
                return folder / text
        found = self._profiles()
        if text not in found:
            known = ", ".join(sorted(found)) or "none is there yet"
            self._refuse(name, f"no cluster profile {text!r}{_close(text, found)} (known: {known})")
        return found.get(text)

    def _profiles(self) -> dict[str, Path]:
        """Cluster profiles by name; a user's own hide the ones that come with hpckit."""
        home = self.environ.get("HOME") or str(Path.home())
        settings = Path(self.environ.get("XDG_CONFIG_HOME") or f"{home}/.config")
        folders = (PROFILES, settings / "hpckit" / "clusters")
        return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}

    def _parsed(self, data: bytes, file: str) -> yamlio.Node | None:
        node = yamlio.compose(data, file, self.problems)
        if isinstance(node, yamlio.Mapping):
            _dash_options(node)
        return node

    def _refuse(self, name: yamlio.Scalar, message: str) -> yamlio.Mapping | None:
        complain(self.problems, name, "include", message)
        return None


def _close(text: str, found: Mapping[str, Path]) -> str:
    suggestion = did_you_mean(text, sorted(found))
    return suggestion if "mean" in suggestion else ""


def _dash_options(root: yamlio.Mapping) -> None:
    """Spell Slurm's options one way, or a profile's mail_user would stand beside mail-user."""
    slurm = root.pairs.get("slurm")
    if not isinstance(slurm, yamlio.Mapping):
        return
    dashed = yamlio.Mapping(slurm.file, slurm.line, slurm.column)
    for key, node in slurm.pairs.items():
        name = key.replace("_", "-")
        name = key if name in dashed.pairs else name
        dashed.pairs[name], dashed.keys[name] = node, slurm.keys[key]
    root.pairs["slurm"] = dashed


def _over(base: yamlio.Node | None, top: yamlio.Mapping | None) -> yamlio.Mapping | None:
    """Two mappings as one, deeply: the top one wins, and its lists replace."""
    if not isinstance(base, yamlio.Mapping) or top is None:
        return top if top is not None or not isinstance(base, yamlio.Mapping) else base
    found = _copied(top)
    for key, node in base.pairs.items():
        above = top.pairs.get(key)
        if above is None:
            found.pairs[key], found.keys[key] = node, base.keys[key]
        elif isinstance(above, yamlio.Mapping) and isinstance(node, yamlio.Mapping):
            found.pairs[key] = _over(node, above) or above
        elif key == "env" and isinstance(above, yamlio.Sequence):
            found.pairs[key] = _joined(node, above)
    return found


def _joined(base: yamlio.Node, top: yamlio.Sequence) -> yamlio.Sequence:
    """Both lists of variables: what an included file declares, its own strings need."""
    found = yamlio.Sequence(top.file, top.line, top.column)
    found.items = [*(base.items if isinstance(base, yamlio.Sequence) else []), *top.items]
    return found


def _copied(node: yamlio.Mapping) -> yamlio.Mapping:
    # Aliases share nodes: never change one in place.
    found = yamlio.Mapping(node.file, node.line, node.column)
    found.pairs, found.keys = dict(node.pairs), dict(node.keys)
    return found


def override(root: yamlio.Mapping, text: str, problems: list[Problem]) -> yamlio.Mapping:
    """The tree with one `path=value` put in."""
    file, (path, sign, value) = f"-s {text}", text.partition("=")
    steps = _steps(path)
    here = yamlio.Scalar(file, 1, 1, path, True)
    if not sign or not all(steps) or len(steps) > STEPS_LIMIT:
        complain(problems, here, "", "write it as section.name=value, such as params.lr=1e-4")
        return root
    # The spaces make columns count in the setting as it was typed.
    node = yamlio.compose(" " * (len(path) + 1) + value, file, problems)
    if slip := _slip(root, steps):
        complain(problems, here, path, slip)
    return root if node is None else _put(root, steps, node, here, problems)


def _slip(root: yamlio.Mapping, steps: list[str]) -> str:
    """What to say of a parameter that nothing names, but for one letter."""
    inner: yamlio.Node | None = root
    for step in steps[:-1]:
        inner = inner.pairs.get(step) if isinstance(inner, yamlio.Mapping) else None
    if steps[0] != "params" or not isinstance(inner, yamlio.Mapping) or steps[-1] in inner.pairs:
        return ""
    lines = [yamlio.find(root, "program", name) for name in ("command", "python")]
    texts = [each.text for each in lines if isinstance(each, yamlio.Scalar)]
    is_used = any(f"{{{'.'.join(steps)}}}" in text for text in texts)
    return "" if is_used else nearly(steps[-1], list(inner.pairs))


def _steps(path: str) -> list[str]:
    if own := _OWN_RULE.fullmatch(path):
        return ["monitor", "rules", *(each for each in own.groups() if each is not None)]
    steps = path.split(".")
    for prefix in _DOTTED:
        start = steps[: len(prefix)]
        if len(steps) > len(prefix) and all(
            want in ("*", step) for want, step in zip(prefix, start, strict=True)
        ):
            return [*start, ".".join(steps[len(prefix) :])]
    if steps[0] == "slurm":
        return [steps[0], *(step.replace("_", "-") for step in steps[1:])]
    return steps


def _put(
    root: yamlio.Mapping,
    steps: list[str],
    value: yamlio.Node,
    here: yamlio.Scalar,
    problems: list[Problem],
) -> yamlio.Mapping:
    found = inner = _copied(root)
    for depth, step in enumerate(steps[:-1]):
        below = inner.pairs.get(step)
        if below is None or yamlio.is_null(below):
            below = yamlio.Mapping(here.file, 1, 1)
            inner.keys.setdefault(step, here)
        elif step == "program" and depth == 0 and isinstance(below, yamlio.Scalar):
            below = in_full(below, "command")
        elif not isinstance(below, yamlio.Mapping):
            where = ".".join(steps[: depth + 1])
            complain(problems, here, where, "is not a mapping, so nothing can be set inside it")
            return root
        copy = _copied(below)
        inner.pairs[step] = copy
        inner = copy
    inner.pairs[steps[-1]] = value
    inner.keys[steps[-1]] = here
    return found


def fill_variables(
    root: yamlio.Mapping, environ: Mapping[str, str], problems: list[Problem]
) -> yamlio.Mapping:
    """The tree with `${NAME}` filled in from the variables that `env` declares."""
    declared = root.pairs.get("env")
    names = {}
    for each in declared.items if isinstance(declared, yamlio.Sequence) else []:
        if isinstance(each, yamlio.Scalar):
            names[each.text] = environ.get(each.text)
            if each.text not in environ:
                complain(problems, each, "env", f"{each.text} is not set in the environment")
            elif yamlio.UNPRINTABLE.search(environ[each.text]):
                complain(problems, each, "env", f"{each.text} holds what is no text")
    filler = _Filler(names, problems)
    found = filler.node(root, ())
    assert isinstance(found, yamlio.Mapping)
    return found


class _Filler:
    """Fills variables into a tree, leaving alone what the shell reads; nodes are copied."""

    def __init__(self, names: Mapping[str, str | None], problems: list[Problem]) -> None:
        self.names = names
        self.problems = problems

    def node(self, node: yamlio.Node, path: tuple[str, ...]) -> yamlio.Node:
        if path in _SHELL and not (path == ("program",) and isinstance(node, yamlio.Mapping)):
            return node
        if path in (("program", "command"), ("program", "python")):
            return node
        if isinstance(node, yamlio.Scalar):
            return self._scalar(node, path) if "${" in node.text else node
        if isinstance(node, yamlio.Sequence):
            return self._sequence(node, path)
        assert isinstance(node, yamlio.Mapping)
        pairs = {key: self.node(each, (*path, key)) for key, each in node.pairs.items()}
        if all(new is old for new, old in zip(pairs.values(), node.pairs.values(), strict=True)):
            return node
        found = yamlio.Mapping(node.file, node.line, node.column)
        found.pairs, found.keys = pairs, node.keys
        return found

    def _sequence(self, node: yamlio.Sequence, path: tuple[str, ...]) -> yamlio.Sequence:
        items = [self.node(each, path) for each in node.items]
        if all(new is old for new, old in zip(items, node.items, strict=True)):
            return node
        found = yamlio.Sequence(node.file, node.line, node.column)
        found.items = items
        return found

    def _scalar(self, node: yamlio.Scalar, path: tuple[str, ...]) -> yamlio.Scalar:
        def value(found: re.Match[str]) -> str:
            name = found[1]
            if name not in self.names:
                message = f"{found[0]} is not declared: add `env: [{name}]` to fill it in"
                complain(self.problems, node, ".".join(path), message)
            return self.names.get(name) or ""

        text = _VARIABLE.sub(value, node.text)
        return yamlio.Scalar(node.file, node.line, node.column, text, node.plain)
