"""Old clients, from recordings: to each the server says what the original of its time said, in the same order."""

import pytest

from ledger import differs, skip_where_differs
from transcripts import DIRECTORY, Message, Player, Transcript, load
from unify import Rules

PATHS = sorted(DIRECTORY.glob("*/*.jsonl"))

# Times, and sizes of files: what the original writes of an extension is longer.
ALWAYS = Rules(
    free=(
        "get_info.length",
        "get_info.size",
        "info.0.length",
        "info.0.size",
        "*.time",
        "history.*.size",
        "undoLog.*.size",
        "undoInfo.*.size",
        "server_status.start",
        "server_status.last-transaction",
    ),
    # Names of files.
    ignored=("get_info.name", "sendBlob.1.args.0", "sendBlob.1.1.1.args.0", "sendBlob.1.0"),
    unordered=("get_info.interfaces", "getInvalidations.1"),
)


def rules_of(transcript: Transcript) -> Rules:
    """What may be otherwise, entry by entry of the ledger."""
    rules = ALWAYS
    is_before_310 = transcript.client in ("zodb3-3.7.2", "zodb3-3.8.6", "zodb3-3.9.7")
    if differs("every-finish-is-announced"):
        rules |= Rules(may_grow=("invalidateTransaction.1", "getInvalidations.1"))
    if differs("one-get-info-for-all"):
        rules |= Rules(
            left_out=("get_info.extensionMethods.*",),
            added=("get_info.supportsVersions", "get_info.interfaces"),
            ignored=("get_info.supportsVersions",),
        )
    if differs("undo-for-every-client") and is_before_310:
        rules |= Rules(ignored=("get_info.supportsUndo", "undoLog"))
    if differs("undo-is-rehearsed") and is_before_310 and transcript.scenario.startswith("undo"):
        rules |= Rules(ignored=("undo.0",), may_grow=("serialnos.0",))
    if differs("exceptions-say-the-same-to-all"):
        rules |= Rules(left_out=("*.message", "*.data"), any_kind=("*.class_name",))
    if differs("nobody-counts-verifying-clients"):
        rules |= Rules(left_out=("server_status.verifying_clients",))
    if differs("versions-in-every-old-history") and is_before_310:
        rules |= Rules(added=("history.*.version",))
    if differs("versions-as-in-zeo-4") and transcript.server in ("zodb3-3.7.2", "zodb3-3.8.6"):
        rules |= Rules(ignored=("versions", "versionEmpty"))
    if differs("empty-transactions-have-a-tid") and transcript.server != "zeo-5.4.1-py27":
        rules |= Rules(may_differ=("tpc_finish",))
    if differs("undo-info-compares-bytes") and not transcript.is_python_2:
        rules |= Rules(may_grow=("undoInfo",))
    if differs("lock-outlives-the-reply"):
        rules |= Rules(ignored=("server_status.lock_time",))
    if differs("python-2-gets-protocol-1") and transcript.server == "zeo-5.4.1-py27":
        rules |= Rules(any_spelling=True)
    return rules


def may_come(message: Message) -> bool:
    """What the server may say besides."""
    names = ("info", "invalidateTransaction") if differs("every-finish-is-announced") else ()
    return message.is_async and message.name in names


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_server_says_what_the_original_said(path, make_server):
    skip_where_differs("protocol-five-only")
    transcript = load(path)
    settings = {key.replace("-", "_"): value for key, value in transcript.settings.items()}
    server = make_server(**settings)
    server.log.allow("`register` raised exception", "`(undo|vote)` raised exception: .*UndoError")
    complaints = Player(transcript, server.address, rules_of(transcript), may_come).play()
    assert not complaints, "\n".join(complaints)
