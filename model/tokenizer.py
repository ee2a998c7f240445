"""Text to token ids and back: the SentencePiece vocabulary of ChatGLM-6B (spec/chatglm-6b.md, section 6)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from model.config import CONFIG_NAME, ChatGLMConfig
from model.lfs import refuse_pointer
from model.types import ModelError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

TOKENIZER_NAMES = ("ice_text.model", "tokenizer.model", "*.model")
"""Where a folder's tokenizer is looked for, the first match first."""
SPECIAL_PIECES = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
WIDEST_BLANK = 80
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
EARLY_PIECES = 130_000
"""Pieces of the files from before 2023-04-06, whose tokenizer appended the rest in memory."""

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""How SentencePiece writes a space inside a piece."""
_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6
"""Kinds of a piece in sentencepiece_model.proto."""
_BYTE_FALLBACK = b"\x12\x03\x98\x02\x01"
"""A ModelProto with nothing but trainer_spec.byte_fallback = true."""
_REMEDY = "copy ice_text.model from the repository that published the weights"


class Tokenizer:
    """Bare SentencePiece: specials that a user types stay text, and no text can become one.

    Vocabularies of both generations give slim ids, those of `ChatGLMConfig.slim()`. Safe to share between
    threads.
    """

    def __init__(self, path: Path | str) -> None:
        """Read a SentencePiece file, or the one in a folder. Raises ModelError."""
        self.file = _find(Path(path))
        sp = self._sp = _read(self.file)
        self.special_ids = {
            piece: found
            for piece in (*SPECIAL_PIECES, "<pad>", "<unk>")
            if (found := self._piece_id(piece)) is not None
        }
        """Ids of the special pieces that the file has, by piece."""
        # a file may declare its specials as symbols that text can spell: such ids never leave `encode`
        self._specials = {self.special_ids[piece] for piece in self.special_ids if piece != "<unk>"}
        layout = {"\n": "<n>", "\t": "<|tab|>"}
        layout |= {" " * width: f"<|blank_{width}|>" for width in range(WIDEST_BLANK, 1, -1)}
        self._layout = {text: piece for text, piece in layout.items() if self._piece_id(piece) is not None}
        self._texts = {sp.piece_to_id(piece): text for text, piece in self._layout.items()}
        self._texts[sp.unk_id()] = sp.decode([sp.unk_id()])

    def __len__(self) -> int:
        """Pieces of the vocabulary; the model's embedding may have more rows, as padding."""
        return len(self._sp)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without any special; half a surrogate pair counts as a space."""
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids = self._sp.encode(re.sub("[\n\t]|  +", self._lay_out, text))
        return ids if self._specials.isdisjoint(ids) else [i for i in ids if i not in self._specials]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, blanks as they are; incomplete UTF-8 becomes one U+FFFD for each byte.

        Control pieces and ids beyond the pieces (padding rows of the embedding) print nothing.
        """
        stream = StreamDecoder(self, broken=REPLACEMENT)
        return "".join(map(stream.push, ids)) + stream.end()

    def check(self, config: ChatGLMConfig, file: Path | None = None) -> None:
        """Refuse a configuration of another vocabulary; `file` is where it was read, for the message.

        The id of <pad> is not compared: nothing is ever padded.
        """
        config = config.slim()
        where = file or self.file.parent / CONFIG_NAME
        wanted = {
            "[MASK]": config.mask_token_id,
            "[gMASK]": config.gmask_token_id,
            "<sop>": config.bos_token_id,
            "<eop>": config.eos_token_id,
        }
        for piece, expected in wanted.items():
            found = self.special_ids.get(piece)
            if found != expected:
                has = f"has no piece {piece}" if found is None else f"has {piece} at {found}"
                raise ModelError(
                    f"two vocabularies are mixed: the tokenizer {has}, {where} at {expected}",
                    file=self.file,
                    remedy="use the tokenizer and the config.json that came with the weights",
                )
        if len(self) > config.vocab_size:
            raise ModelError(
                f"two vocabularies are mixed: the tokenizer has {len(self)} pieces,"
                f" {where} a vocab_size of {config.vocab_size}",
                file=self.file,
                remedy="use the tokenizer and the config.json that came with the weights",
            )

    def surface(self, token: int) -> bytes | str:
        """What one id prints, a dummy prefix included: text, or the one byte of a byte piece."""
        if not 0 <= token < len(self._sp) or token in self._specials or self._sp.is_control(token):
            return ""
        if token in self._texts:
            return self._texts[token]
        piece = self._sp.id_to_piece(token)
        return bytes([int(piece[3:-1], 16)]) if self._sp.is_byte(token) else piece

    def _piece_id(self, piece: str) -> int | None:
        found = self._sp.piece_to_id(piece)
        return found if self._sp.id_to_piece(found) == piece else None

    def _lay_out(self, run: re.Match[str]) -> str:
        text = run[0]
        if text in self._layout:
            return self._layout[text]
        for blank, piece in self._layout.items():
            text = text.replace(blank, piece)
        return text


class StreamDecoder:
    """Text of ids as they come, at constant cost for each.

    A character waits until its bytes are complete. The pieces together are `Tokenizer.decode` of all ids,
    with `broken` in the place of U+FFFD: bytes that never become a character are dropped.
    """

    def __init__(self, tokenizer: Tokenizer, broken: str = "") -> None:
        self._tokenizer = tokenizer
        self._broken = broken
        self._bytes = b""
        self._begun = False
        """Whether anything was printed: until then, spaces before words are the encoder's dummy prefix."""

    def push(self, token: int) -> str:
        """The text that this id completes, perhaps none."""
        surface = self._tokenizer.surface(int(token))
        if not surface:
            return ""
        if isinstance(surface, bytes):
            self._begun = True
            self._bytes += surface
            return self._characters()
        before = self.end()
        if not self._begun:
            surface = surface.removeprefix(_SPACE)
        self._begun = self._begun or bool(surface)
        return before + surface.replace(_SPACE, " ")

    def end(self) -> str:
        """What is left when no id follows: nothing, or `broken` for each byte of half a character."""
        waiting, self._bytes = self._bytes, b""
        return self._broken * len(waiting)

    def _characters(self) -> str:
        text = ""
        while self._bytes:
            try:
                text += self._bytes.decode().replace(REPLACEMENT, self._broken)
                self._bytes = b""
            except UnicodeDecodeError as error:
                if error.reason == "unexpected end of data":
                    break
                # as SentencePiece does: one byte is lost, the next may begin a character
                text += self._broken
                self._bytes = self._bytes[1:]
        return text


def find_tokenizer(folder: Path) -> Path | None:
    """The tokenizer's file in a folder, None where there is none."""
    found = (file for name in TOKENIZER_NAMES for file in sorted(folder.glob(name)))
    return next(found, None)


def _find(path: Path) -> Path:
    if not path.is_dir():
        return path
    if (found := find_tokenizer(path)) is None:
        raise ModelError("the folder holds no tokenizer (ice_text.model)", file=path, remedy=_REMEDY)
    return found


def _read(file: Path) -> SentencePieceProcessor:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise ModelError(
            "the package sentencepiece is missing", file=file, remedy="pip install 'glmbot[model]'"
        ) from None
    try:
        refuse_pointer(file)
        data = file.read_bytes()
    except FileNotFoundError:
        raise ModelError("there is no such tokenizer file", file=file, remedy=_REMEDY) from None
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", file=file, remedy=_REMEDY) from None
    try:
        sp = SentencePieceProcessor()
        sp.LoadFromSerializedProto(data)
        if _is_early(sp):
            sp.LoadFromSerializedProto(data + late_pieces())
        return sp
    except RuntimeError:
        raise ModelError(
            f"is not a SentencePiece model, or only a part of one ({len(data)} bytes)",
            file=file,
            remedy="download ice_text.model again (2706249 bytes, or 2699926 before 2023-04-06)",
        ) from None


def _is_early(sp: SentencePieceProcessor) -> bool:
    begins_alike = len(sp) == EARLY_PIECES and sp.id_to_piece(3) == "<pad>" and sp.id_to_piece(4) == "<n>"
    return begins_alike and bool(sp.is_unknown(sp.piece_to_id("[gMASK]")))


def late_pieces() -> bytes:
    """Specials, tab, blanks and bytes, to append to a SentencePiece file that ends before them.

    What makes an early file a slim one: protobuf merges concatenated messages.
    """
    pieces = [(piece, _CONTROL) for piece in SPECIAL_PIECES]
    pieces.append(("<|tab|>", _USER_DEFINED))
    pieces += [(f"<|blank_{width}|>", _USER_DEFINED) for width in range(2, WIDEST_BLANK + 1)]
    pieces += [(f"<0x{byte:02X}>", _BYTE) for byte in range(256)]
    return b"".join(_piece(*each) for each in pieces) + _BYTE_FALLBACK


def _piece(text: str, kind: int) -> bytes:
    """Field `pieces` of a ModelProto: the text (1), a score of zero (2), the kind (3)."""
    message = bytes([0x0A, len(text)]) + text.encode() + b"\x15" + bytes(4) + bytes([0x18, kind])
    return bytes([0x0A, len(message)]) + message
