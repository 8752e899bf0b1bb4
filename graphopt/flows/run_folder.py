"""The run folder: everything one run of a command did, as plain files that a report or a script can read.

::

    runs/20261122-014501-optimize-ppocr_cls_v2/
        run.json            what was run, on which file, with which versions, on which machine
        recipe.toml         the recipe as it ran
        steps.jsonl         a line for each pass: what it changed, what it kept and why
        decisions.jsonl     a line for each fused form that was asked for: used or refused, by which measurement
        stats.json          the model in numbers, before and after
        verify.json         the verdict, and the differences of every output
        measurements.jsonl  a line for each candidate that was timed
        model.onnx          the result
        report.html         the page that ``graphopt.report.render`` makes of these

JSON files appear whole or not at all. Lines are appended one write each and are on their way to the disk
before the call returns, so a run that is killed leaves every finished step behind, and at worst one torn last
line, which readers skip. The JSON is strict: a number that is not finite is the text "inf", "-inf" or "nan".
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from ..errors import GraphoptError
from ..execute.machine import machine
from ..ir.atomic import storage_error, write_file
from .plain import plain


class RunFolder:
    """One run's folder, open for writing.

    Args:
        path: an existing run folder; ``RunFolder.create`` makes a new one.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def create(
        cls,
        root: Path | str,
        command: str | Sequence[str],
        *,
        source: Path | str | None = None,
        target: str | None = None,
        profiles: Sequence[Mapping[str, object]] = (),
        data: str | None = None,
        data_path: Path | str | None = None,
        seed: int | None = None,
        samples: int | None = None,
        now: datetime | None = None,
    ) -> RunFolder:
        """Claims a new folder below ``root`` and writes its ``run.json``.

        The id is the local time, the command and the model's name; when it is taken, also by another process
        in the same second, a counter is added.

        Args:
            root: the folder of all runs, usually ``runs``; made when missing.
            command: what was called, without the program's name: ``["optimize", "m.onnx", "-o", ...]``, or as
                one text.
            source: the model file the run starts from; it is hashed and named in ``run.json``.
            target: the target's name.
            profiles: the measured profiles that the target answers from, each with origin (local or packaged), path,
                sha256, measured, cpu, onnxruntime and threads; the first is asked first.
            data: what the feeds come from, in words.
            data_path: the file or folder they come from, if there is one.
            seed: of everything random.
            samples: how many feeds the data hold.
            now: the time that counts as the start; by default the clock's.

        Raises:
            GraphoptError: the folder cannot be made, or the source cannot be read.
        """
        words = shlex.split(command) if isinstance(command, str) else list(command)
        text = command if isinstance(command, str) else shlex.join(words)
        created = now or datetime.now().astimezone()
        origin = None if source is None else _source(Path(source))
        parts = [created.strftime("%Y%m%d-%H%M%S"), _slug(words[0] if words else "run")]
        if source is not None:
            parts.append(_slug(Path(source).stem))
        facts = machine()
        installed = {"graphopt": "unknown", **facts.pop("versions", {})}
        folder = cls(_claim(Path(root), "-".join(part for part in parts if part)))
        folder._write_json(
            "run.json",
            {
                "id": folder.id,
                "command": text,
                "created": created.isoformat(timespec="seconds"),
                "finished": None,
                "graphopt": installed["graphopt"],
                "versions": installed,
                "machine": facts,
                "source": origin,
                "target": target,
                "profiles": [dict(item) for item in profiles],
                "data": data,
                "data_path": None if data_path is None else str(data_path),
                "seed": seed,
                "samples": samples,
                "folder": str(folder.path),
            },
        )
        return folder

    @property
    def id(self) -> str:
        """The run's id: its folder's name."""
        return self.path.name

    @property
    def model(self) -> Path:
        """Where the resulting model belongs."""
        return self.path / "model.onnx"

    def remove(self) -> None:
        """Takes the folder away: the run was interrupted, and what it wrote is of no use."""
        shutil.rmtree(self.path, ignore_errors=True)

    def append_step(self, step: object) -> None:
        """Adds a pass's line to ``steps.jsonl``.

        Args:
            step: a mapping or dataclass with pass, family, fidelity, changed, kept, seconds, node_delta (or
                nodes_before and nodes_after), sites (each where, text, status: changed, kept or left-out),
                error, and round where a pass has a line for each.
        """
        self._append("steps.jsonl", step)

    def append_decision(self, decision: object) -> None:
        """Adds a fused form's line to ``decisions.jsonl``.

        Args:
            decision: a mapping or dataclass with form, verdict (used, refused or not used), why, sizes, unit, ratio
                (least and greatest, or None), origin, and the operator's nodes before and after.
        """
        self._append("decisions.jsonl", decision)

    def append_measurement(self, measurement: object) -> None:
        """Adds a candidate's line to ``measurements.jsonl``; ratios are relative to the first line.

        Args:
            measurement: a mapping or dataclass with name, median_ms, ratio, ratio_low, ratio_high, runs,
                load_s, peak_bytes, file_bytes, threads and provider.
        """
        self._append("measurements.jsonl", measurement)

    def write_stats(self, before: object, after: object | None = None, **facts: object) -> None:
        """Writes ``stats.json``; call it again with both when the second model exists.

        Args:
            before: a mapping or dataclass as ``graphopt.flows.stats.ModelStats``, and where they were counted flops,
                activations and peak (of activations alive at once, in bytes).
            after: the same of the result.
            facts: more to note there: sizes, for which the costs are counted, in words.
        """
        self._write_json("stats.json", {"before": before, "after": after, **facts})

    def write_verify(self, verdict: object) -> None:
        """Writes ``verify.json``.

        Args:
            verdict: a mapping with verdict (in words), feeds (how many), outputs (each name, dtype, shape,
                max_abs, max_rel, sqnr_db, tolerance, ok, reason), problems, not_comparable and notes, as
                ``graphopt.execute.verify.Verdict.as_json`` gives; and why, where nothing was verified.
        """
        self._write_json("verify.json", verdict)

    def write_recipe(self, text: str) -> None:
        """Writes ``recipe.toml``."""
        self._write("recipe.toml", text if text.endswith("\n") else text + "\n")

    def finish(self, error: str | None = None, **facts: object) -> None:
        """Marks the run as over in ``run.json``; a folder without that mark was interrupted.

        Args:
            error: what went wrong, for a run that failed.
            facts: more to note there, such as ``output="m.opt.onnx"``.
        """
        try:
            known = json.loads((self.path / "run.json").read_text("utf-8"))
        except (OSError, ValueError) as problem:
            raise GraphoptError("the run folder has no readable run.json", str(self.path)) from problem
        now = datetime.now().astimezone()
        try:
            seconds = (now - datetime.fromisoformat(known["created"])).total_seconds()
        except (KeyError, TypeError, ValueError):
            seconds = None
        known |= {"finished": now.isoformat(timespec="seconds"), "seconds": seconds, "error": error, **facts}
        self._write_json("run.json", known)

    def _append(self, name: str, record: object) -> None:
        """One line, one write: concurrent readers see whole lines but for the last."""
        line = json.dumps(plain(record), ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n"
        path = self.path / name
        try:
            with path.open("ab+") as stream:
                if stream.tell():
                    stream.seek(-1, os.SEEK_END)
                    if stream.read(1) != b"\n":
                        line = b"\n" + line  # a torn line stays alone, so that it spoils nothing
                stream.write(line)
                stream.flush()
        except OSError as problem:
            raise storage_error(problem, path) from problem

    def _write_json(self, name: str, record: object) -> None:
        text = json.dumps(plain(record), ensure_ascii=False, allow_nan=False, indent=2)
        self._write(name, text + "\n")

    def _write(self, name: str, text: str) -> None:
        write_file(self.path / name, text.encode("utf-8", "replace"))


def _claim(root: Path, name: str) -> Path:
    """Makes the folder ``name``, or ``name-2``, ``name-3``, ...: no two runs ever share one."""
    counter = 1
    while True:
        path = root / (name if counter == 1 else f"{name}-{counter}")
        try:
            root.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except FileExistsError as problem:
            if not root.is_dir():
                raise storage_error(problem, root) from problem
            counter += 1
        except OSError as problem:
            raise storage_error(problem, path) from problem
        else:
            return path


def _source(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"path": str(path), "sha256": digest, "bytes": path.stat().st_size}
    except OSError as problem:
        raise GraphoptError(f"the model cannot be read: {problem.strerror}", str(path)) from problem


def _slug(text: str) -> str:
    """The text as part of a folder's name on any file system."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[:60].rstrip("-.")
