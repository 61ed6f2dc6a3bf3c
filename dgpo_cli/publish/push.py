"""Uploads a checkpoint of a run to the Hugging Face hub, with a model card made from the run."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgpo_cli.config.load import Resolved
from dgpo_cli.config.tree import flatten, spread
from dgpo_cli.core.digests import MOMENTS, OPTIMIZER, STATE, SUMS
from dgpo_cli.core.errors import CheckpointError, ConfigError, DataError, HubError
from dgpo_cli.core.events import Observer, tell
from dgpo_cli.core.io import naming
from dgpo_cli.core.numbers import size
from dgpo_cli.policy.settings import EMBEDDED_TINY
from dgpo_cli.publish.model_card import CardFacts, model_card
from dgpo_cli.publish.model_folder import README, keep_results, publish
from dgpo_cli.publish.scores import Score, read_score
from dgpo_cli.publish.weights import Weights
from dgpo_cli.runs.history import read_changes, resolved_until
from dgpo_cli.runs.pending import PENDING_FILE, PREFETCHED_FILE, SELECTED_FILE
from dgpo_cli.runs.run_folder import RunFolder, checkpoint_to_load, step_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Suffixes of the files of a model or adapter; the run's own files are not uploaded.
_KINDS = (".safetensors", ".json", ".jinja", ".txt", ".model", ".md")
_OWN = (OPTIMIZER, MOMENTS, STATE, SUMS, PENDING_FILE, PREFETCHED_FILE, SELECTED_FILE)
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".joblib")


@dataclass(frozen=True, slots=True)
class PushResult:
    """An upload. files: names and bytes. address: of the commit; None in a dry run."""

    files: tuple[tuple[str, int], ...]
    card: str
    address: str | None


def run(
    resolved: Resolved,
    *,
    run: Path,
    repo: str,
    private: bool,
    merged: bool,
    step: int | None,
    dry_run: bool,
    evaluations: Sequence[Path] = (),
    observer: Observer,
) -> PushResult:
    """Upload the adapter or model of `run` after `step` steps (None: the newest) to `repo`.

    Args:
        merged: upload a plain model, with the adapter merged into its weights.
        evaluations: folders of evaluations of these weights, beside those that training made.
        dry_run: prepare everything, upload nothing.

    Raises:
        ConfigError: `repo` is not a valid repo id, or an evaluation is of other weights.
        CheckpointError: the checkpoint is missing, damaged or has unsafe files.
        HubError: the hub refused or is unreachable; nothing was committed.
    """
    check_name(repo)
    given = [(path, read_score(path)) for path in evaluations]
    checkpoint = checkpoint_to_load(run, step=step, observer=observer)
    with tempfile.TemporaryDirectory(prefix=".push-", dir=run) as place:
        folder = Path(place) / "model"
        if merged and resolved.settings.adapter.kind == "lora":
            from dgpo_cli.publish import merge

            number = step_of(checkpoint)
            merge.run(
                resolved, run=run, out=folder, step=number, dtype="bfloat16", observer=observer
            )
        else:
            _copy(checkpoint, folder)
        weights = Weights(run, step=step_of(checkpoint), folders=(checkpoint, folder))
        scores = weights.scores(given, observer=observer)
        facts = _facts(resolved, run=run, checkpoint=checkpoint, folder=folder, scores=scores)
        if facts.is_adapter and not facts.base_is_on_hub:
            tell(
                observer,
                f"the base model {facts.base} is not on the hub: others cannot load this adapter; "
                "--merged uploads a model that needs no base",
            )
        _write(folder / README, model_card(facts))
        check_files(folder)
        for note in publish(folder, scores, url=_address(repo), title=facts.title).notes:
            tell(observer, note)
        card = (folder / README).read_text(encoding="utf-8")
        files = tuple((name, path.stat().st_size) for name, path in _all_files(folder))
        address = None
        if not dry_run:
            total = size(sum(count for _, count in files))
            tell(observer, f"uploading {len(files)} files, {total}, to {repo}")
            address = upload(folder, repo=repo, private=private)
    return PushResult(files=files, card=card, address=address)


def check_name(repo: str) -> None:
    """Raise ConfigError unless `repo` is USER/NAME."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"{repo}: not a valid repo id; give USER/NAME") from error
    if "/" not in repo:
        raise ConfigError(f"{repo}: no user before the name; give USER/NAME")


def _copy(checkpoint: Path, folder: Path) -> None:
    """Copy the model files of a checkpoint; an adapter names its base without local folders.

    Raises:
        CheckpointError: it has files that can run code when they are loaded, or unknown ones.
    """
    folder.mkdir()
    for path in sorted(checkpoint.iterdir()):
        if path.name in _OWN:
            continue
        if path.is_dir() or path.is_symlink():
            raise CheckpointError(f"{path}: is not a plain file; push uploads only plain files")
        with naming(folder / path.name):
            shutil.copyfile(path, folder / path.name)
    check_files(folder)
    config = folder / "adapter_config.json"
    if config.exists():
        stored = json.loads(config.read_text(encoding="utf-8"))
        base = str(stored.get("base_model_name_or_path") or "")
        stored["base_model_name_or_path"] = _name_of(base)
        _write(config, json.dumps(stored, indent=2) + "\n")


def _all_files(folder: Path) -> list[tuple[str, Path]]:
    """Return every file with its name in the repository."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path) for path in found]


def _address(repo: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo}"


def _write(path: Path, text: str) -> None:
    with naming(path):
        path.write_text(text, encoding="utf-8")


def check_files(folder: Path) -> None:
    """Check that nothing in a folder runs code when it is loaded.

    Raises:
        CheckpointError: a file is a pickle, of an unknown kind, or not what its suffix says; or
            there are no weights.
    """
    from safetensors import SafetensorError, safe_open

    weights = 0
    for path in sorted(folder.iterdir()):
        if path.suffix in _PICKLES:
            raise CheckpointError(
                f"{path.name}: may be a pickle, which runs code when it is loaded; only "
                "safetensors are uploaded"
            )
        if path.suffix not in _KINDS:
            raise CheckpointError(f"{path.name}: not a file of a model or tokenizer; remove it")
        if path.suffix == ".safetensors":
            weights += 1
            try:
                with safe_open(str(path), framework="np") as file:
                    file.keys()
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path.name}: is not in safetensors format") from error
    if not weights:
        raise CheckpointError(f"{folder}: has no weights in safetensors format")


def _facts(
    resolved: Resolved, *, run: Path, checkpoint: Path, folder: Path, scores: Sequence[Score]
) -> CardFacts:
    """Collect the contents of the card."""
    step = step_of(checkpoint)
    model = resolved.settings.model
    revision = model.revision
    stored = checkpoint / "adapter_config.json"
    if stored.exists():
        revision = json.loads(stored.read_text(encoding="utf-8")).get("revision") or revision
    changes = read_changes(run)
    then = resolved_until(step, resolved, changes=changes)
    settings: dict[str, Any] = spread(flatten(then.settings))
    return CardFacts(
        title=run.resolve().name,
        base=_name_of(model.path),
        base_is_on_hub=model.path != EMBEDDED_TINY and _name_of(model.path) == model.path,
        revision=revision,
        is_adapter=(folder / "adapter_config.json").exists(),
        step=step,
        settings=settings | {"model.path": _name_of(model.path)},
        changes=tuple(each for each in changes if each.step < step),
        metrics=[line for line in RunFolder(run).read_metrics() if (line["step"] or 0) <= step],
        scores=scores,
    )


def _name_of(model: str) -> str:
    """Return a hub id unchanged, and the name of a local folder without its path."""
    local = model.startswith(("/", ".", "~")) or Path(model).is_dir()
    return Path(model).name if local else model


def upload(folder: Path, *, repo: str, private: bool) -> str:
    """Create the repository if needed, commit all files of a folder at once, return the address.

    Scores of others that are there already are kept.

    Raises:
        HubError: the hub refused or is unreachable; nothing was committed.
        DataError: the card on the hub cannot be read; nothing was committed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    token = get_token()
    if not token:
        raise HubError(
            f"{repo}: no hub token; set HF_TOKEN to one with write access, or run hf auth login"
        )
    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise HubError(f"{repo}: exists and is public; give another name, or omit --private")
        keep_results(folder, lambda name: _on_hub(api, repo, name), repo=repo)
        commit = api.create_commit(
            repo,
            operations=[CommitOperationAdd(name, str(path)) for name, path in _all_files(folder)],
            commit_message="Upload with dgpo",
        )
    except (HubError, DataError):
        raise
    except Exception as error:  # the hub's own kinds, those of its HTTP library and of xet
        raise _explained(error, repo=repo, endpoint=api.endpoint, token=token) from None
    return str(commit.commit_url)


def _on_hub(api: HfApi, repo: str, name: str) -> str:
    """Return the text of a file of a repository; "" if it is not there."""
    from huggingface_hub.errors import EntryNotFoundError

    with tempfile.TemporaryDirectory() as place:
        try:
            path = api.hf_hub_download(repo, name, local_dir=place)
        except EntryNotFoundError:
            return ""
        return Path(path).read_text(encoding="utf-8", errors="replace")


_REASONS = {
    401: "invalid token (401); set HF_TOKEN to one with write access",
    403: "the token has no write access (403); set HF_TOKEN to one that has",
    404: "no such repository (404); is the name USER/NAME, and the user yours?",
    409: "conflict on the hub (409); try again",
    413: "too large for the hub (413)",
    429: "too many requests (429); wait a little and try again",
}


def _explained(error: Exception, *, repo: str, endpoint: str, token: str) -> HubError:
    """Return an error of huggingface_hub as one line, without the token."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    match error:
        case OfflineModeIsEnabled():
            reason = "HF_HUB_OFFLINE is set; unset it to upload"
        case HfHubHTTPError() if error.response.status_code in _REASONS:
            reason = _REASONS[error.response.status_code]
        case HfHubHTTPError():
            reason = f"the hub answered {error.response.status_code}"
        case _:
            lines = str(error).splitlines() or [""]
            reason = f"{endpoint} is unreachable or broke off: {type(error).__name__} {lines[0]}"
    return HubError(f"{repo}: {reason}".replace(token, "***").strip())
