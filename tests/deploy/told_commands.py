"""Commands that documents and alerts tell people to type, tried on the parsers of the code."""

from __future__ import annotations

import shlex
from itertools import takewhile

from scp.__main__ import main as scp_main
from scp.doctor import _parser as scp_doctor_parser
from training.__main__ import _parser as training_parser
from worker.__main__ import _parser as worker_parser


def accept(command: str) -> None:
    """Fail where a command of `python -m scp|worker|training` is refused by its own parser; nothing is run."""
    words = _words(command)
    parse = {"worker": worker_parser().parse_args, "training": training_parser().parse_args, "scp": _scp}[words[2]]
    status: object = 0
    try:
        parse(words[3:])
    except SystemExit as ended:  # --help ends, and so does what the parser refuses
        status = ended.code
    assert status == 0, command


def _words(command: str) -> list[str]:
    """Split as a shell does, up to a comment, a pipe or a redirection."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(takewhile(lambda word: word[0] not in "|&;<>", (word or " " for word in lexer)))


def _scp(arguments: list[str]) -> None:
    if arguments[:1] == ["doctor"]:  # it would look, and silence the logs of later tests
        scp_doctor_parser().parse_args(arguments[1:])
    elif arguments:  # without any it would run
        scp_main(arguments)
