"""Changed copies of the records and image vectors of a batch, for training only.

Random numbers come from torch's global state, which the trunk sets for every step from (seed, epoch, batch). A changed
record is another record: take its key from `kfashion.records.code_keys`. Source: kfashion specification, section 4.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize, pad

from kfashion.records import FIELDS, MISSING, NUM_RESERVED, PAD, Codes

Rate = Annotated[float, Field(ge=0, le=1)]
Tokens = Mapping[str, Sequence[str]]

# words that labellers use for nearly the same thing
SYNONYMS: dict[str, tuple[tuple[str, str], ...]] = {
    "style": (("페미닌", "로맨틱"), ("매니시", "톰보이"), ("스트리트", "힙합")),
    "silhouette": (("루즈", "오버사이즈"), ("타이트", "스키니")),
    "material": (("니트", "헤어 니트"), ("스웨이드", "무스탕"), ("시폰", "메시"), ("퍼", "플리스")),
    "detail": (("러플", "프릴"), ("띠", "스트링"), ("스팽글", "글리터"), ("태슬", "프린지")),
}
# the styles of the vocabulary nearest to vintage/classic, feminine/elegant, casual/comfortable
EMPHASIS = {"레트로": ("클래식",), "로맨틱": ("페미닌", "소피스트케이티드"), "리조트": ("스트리트", "스포티")}


class RecordAugmentation:
    """Changes the records of a batch, each kind of change with a rate of its own.

    Args:
        field_dropout: how often a field is emptied; never all that a record has.
        drop_category: whether the category may be.
        synonym: how often a token is replaced by one of nearly the same meaning (`SYNONYMS`).
        mixing: how often a record takes a field other than the category from another of its category in the batch.
        emphasis: how often a style that goes with the category is added (`EMPHASIS`).
    """

    def __init__(
        self,
        field_dropout: Rate = 0.0,
        drop_category: bool = False,
        synonym: Rate = 0.0,
        mixing: Rate = 0.0,
        emphasis: Rate = 0.0,
    ):
        self.field_dropout, self.drop_category = field_dropout, drop_category
        self.synonym, self.mixing, self.emphasis = synonym, mixing, emphasis

    @property
    def active(self) -> bool:
        return any((self.field_dropout, self.synonym, self.mixing, self.emphasis))

    def __call__(self, codes: Codes, tokens: Tokens) -> Codes:
        """Codes of the changed records; those given stay as they are.

        Args:
            tokens: by field, that of code 3 first.
        """
        if self.mixing:
            codes = mix_fields(codes, self.mixing)
        if self.synonym:
            codes = replace_synonyms(codes, self.synonym, tokens)
        if self.emphasis:
            codes = emphasise(codes, self.emphasis, tokens)
        if self.field_dropout:
            codes, _ = drop_fields(codes, self.field_dropout, self.drop_category)
        return codes


def drop_fields(codes: Codes, rate: float, drop_category: bool) -> tuple[Codes, dict[str, Tensor]]:
    """Codes in which fields are empty at random, but never all of a record, and by field (B,) bool what was taken."""
    given = {field: ~is_empty(codes[field]) for field in FIELDS}
    there = torch.stack(list(given.values()), 1)
    chance = torch.rand(there.shape, device=there.device).masked_fill(~there, -1)
    drop = there & (chance < rate) & (chance < chance.amax(1, keepdim=True))  # the luckiest field stays
    if not drop_category:
        drop[:, FIELDS.index("category")] = False
    dropped = dict(zip(FIELDS, drop.unbind(1), strict=True))
    return {field: emptied(codes[field], dropped[field]) for field in FIELDS}, dropped


def emptied(code: Tensor, rows: Tensor) -> Tensor:
    """The codes of one field, (B,) or (B, L), with nothing in the rows of the (B,) mask."""
    if code.dim() == 1:
        return code.masked_fill(rows, MISSING)
    empty = torch.zeros_like(code[0])
    empty[0] = MISSING
    return torch.where(rows[:, None], empty, code)


def is_empty(code: Tensor) -> Tensor:
    """(B,) whether a field says nothing."""
    return (code if code.dim() == 1 else code[:, 0]) == MISSING


def replace_synonyms(codes: Codes, rate: float, tokens: Tokens) -> Codes:
    """Codes in which tokens with a synonym in the vocabulary are exchanged for it at random.

    A multi field that has the synonym already keeps the token.
    """
    changed = dict(codes)
    for field, pairs in SYNONYMS.items():
        code, partner = codes[field], _partners(pairs, tokens[field]).to(codes[field].device)[codes[field]]
        swap = torch.rand(code.shape, device=code.device) < rate
        if code.dim() == 2:
            swap &= ~(partner[:, :, None] == code[:, None, :]).any(2)
        changed[field] = torch.where(swap, partner, code)
    return changed


def mix_fields(codes: Codes, rate: float) -> Codes:
    """Codes in which fields come from another record of the same category, each field by a draw of its own.

    The last record of every category in the random order has no partner and stays.
    """
    category = codes["category"]
    order = torch.randperm(len(category), device=category.device)
    order = order[category[order].argsort(stable=True)]
    partner = torch.empty_like(order)
    partner[order] = order.roll(-1)
    paired = category[partner] == category
    changed = dict(codes)
    for field in FIELDS[1:]:
        code = codes[field]
        rows = paired & (torch.rand(len(code), device=code.device) < rate)
        changed[field] = torch.where(rows if code.dim() == 1 else rows[:, None], code[partner], code)
    return changed


def emphasise(codes: Codes, rate: float, tokens: Tokens) -> Codes:
    """Codes in which a style that goes with the category was added, where the vocabulary has one."""
    category, style = codes["category"], codes["style"]
    table = _emphasis(tokens).to(style.device)[category]
    pick = torch.randint(table.shape[1], (len(style), 1), device=style.device)
    extra = table.gather(1, pick)
    rows = (torch.rand(len(style), 1, device=style.device) < rate) & ~(style == extra).any(1, keepdim=True)
    added = pad(style, (0, 1))
    added[:, -1:] = torch.where(rows, extra, PAD)
    blank = is_empty(style) & (added[:, -1] != PAD)
    added[:, 0] = added[:, 0].masked_fill(blank, PAD)
    return codes | {"style": added}


def mix_vectors(vectors: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """MixUp: (B, D) vectors of length 1 between pairs of images, and (B, B) the share of each image in each.

    Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412.

    Args:
        alpha: of the Beta(alpha, alpha) that the one share of the batch is drawn from.
    """
    share = torch.distributions.Beta(alpha, alpha).sample().to(vectors.device)
    own = torch.eye(len(vectors), device=vectors.device)
    mixing = share * own + (1 - share) * own[torch.randperm(len(vectors), device=vectors.device)]
    return normalize(mixing @ vectors, dim=-1), mixing


def _partners(pairs: Sequence[tuple[str, str]], tokens: Sequence[str]) -> Tensor:
    """(V,) the code of every code's synonym; its own where it has none."""
    code = {token: number for number, token in enumerate(tokens, NUM_RESERVED)}
    partner = torch.arange(NUM_RESERVED + len(tokens))
    for one, other in pairs:
        if one in code and other in code:
            partner[code[one]], partner[code[other]] = code[other], code[one]
    return partner


def _emphasis(tokens: Tokens) -> Tensor:
    """(categories, n) codes of styles that go with each category; 0 for none."""
    style = {token: number for number, token in enumerate(tokens["style"], NUM_RESERVED)}
    rows = [[]] * NUM_RESERVED + [
        [style[word] for word in EMPHASIS.get(name, ()) if word in style] for name in tokens["category"]
    ]
    width = max(map(len, rows)) or 1
    return torch.tensor([[row[k % len(row)] if row else PAD for k in range(width)] for row in rows])
