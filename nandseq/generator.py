"""Sequences of commands, one token after the other: the network, the policies it is compared with, and the sampler.

nandseq specification, section 9. The grammar's mask makes sampled sequences legal whatever the network says, so that a
figure about the network needs `masked=False`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from nandseq.codes import Rule
from nandseq.profiles import Profile
from nandseq.recurrent import FastGRU
from nandseq.tokens import END, ERASE, OPEN, PAD, PROGRAM, READ, UNKNOWN, LiveState, Vocabulary, Walks, decode

StateFeatures = Literal["none", "state"]
EXACT_PAGES = 24  # of a block that are told apart; sources are often done with a block at one of them
LONGEST_ROW = 8  # programs in a row that are told apart
NOTHING = 3  # in place of a block's last command
Memory = tuple[Tensor, Tensor | None]  # of the GRU, and what was done lately


class Policy(Protocol):
    """What the sampler draws from: next-token logits from what was said so far."""

    def begin(self, state: LiveState, scenario: Tensor) -> None:
        """Forget everything; sequences of these scenarios (N,) begin in `state`."""

    def logits(self, previous: Tensor) -> Tensor:
        """(N, V) logits of the next token after `previous` (N,), -1 at the beginning; they may be -inf."""


class TokenGRU(nn.Module):
    """Next-token logits from the tokens so far and the scenario.

    Args:
        num_slots, num_ages: of the vocabulary.
        num_scenarios: kinds of sequence that can be asked for.
        pages: pages per block.
        features: `state` also shows the newest page of every slot's block and what was done to it lately (`Recent`),
            which follow from the tokens so far; `none` leaves both to the network. No verdict of a rule is shown
            either way.
        slot_dim: D, numbers that describe a slot; all slots are described by the same tables.
    """

    def __init__(
        self,
        num_slots: Annotated[int, Field(ge=1)],
        num_ages: Annotated[int, Field(ge=1)],
        num_scenarios: Annotated[int, Field(ge=1)],
        pages: Annotated[int, Field(ge=1)],
        features: StateFeatures = "state",
        embedding_dim: Annotated[int, Field(ge=1)] = 32,
        slot_dim: Annotated[int, Field(ge=1)] = 24,
        hidden_dim: Annotated[int, Field(ge=1)] = 96,
        num_layers: Annotated[int, Field(ge=1)] = 1,
    ):
        super().__init__()
        vocabulary = Vocabulary(num_slots, num_ages)
        self.num_cells, self.pages, self.features = max(num_ages, EXACT_PAGES) + 2, pages, features
        self.state_dim = num_slots * slot_dim if features == "state" else 0
        self.token = nn.Embedding(len(vocabulary) + 1, embedding_dim)  # the last one begins a sequence
        self.scenario = nn.Embedding(num_scenarios, embedding_dim)
        if self.state_dim:
            self.recent = Recent(vocabulary)
            self.cell, self.page = nn.Embedding(self.num_cells + 1, slot_dim), nn.Linear(1, slot_dim)
            self.lately = nn.Embedding(self.recent.num_codes, slot_dim)
        self.gru = FastGRU(embedding_dim + self.state_dim, hidden_dim, num_layers, batch_first=True)
        self.hidden = nn.Linear(hidden_dim + self.state_dim, hidden_dim)
        self.out = nn.Linear(hidden_dim + self.state_dim, len(vocabulary))

    def forward(
        self, previous: Tensor, newest: Tensor, scenario: Tensor, memory: Memory | None = None
    ) -> tuple[Tensor, Memory]:
        """Logits (B, T, V) of each next token, and the memory to go on from.

        Args:
            previous: (B, T) token before each; -1 at the beginning.
            newest: (B, T, S) newest page of every slot's block by then, as in `LiveState`.
            scenario: (B,)
        """
        states, codes = memory or (None, None)
        previous = torch.where(previous < 0, self.token.num_embeddings - 1, previous)
        said, shown = self.token(previous) + self.scenario(scenario)[:, None], []
        if self.state_dim:
            lately, codes = self.recent(previous, codes)
            shown = [self.describe(newest, lately)]
        output, states = self.gru(torch.cat([said, *shown], -1), states)
        hidden = self.hidden(torch.cat([output, *shown], -1)).relu()
        # the state again, straight to the logits: which pages exist decides alone over most of the impossible reads
        return self.out(torch.cat([hidden, *shown], -1)), (states, codes)

    def describe(self, newest: Tensor, lately: Tensor) -> Tensor:
        """(B, T, S·D) what is shown of the state: per slot one of C + 1 cells (no erase seen, pages written up to some
        number, full), the logarithm of the page, and what was done lately, the three added up."""
        cell = (newest - UNKNOWN).clamp(max=self.num_cells - 1)
        cell = torch.where(newest + 1 >= self.pages, self.num_cells, cell)
        page = (newest.clamp(min=-1) + 2).float().log2() / 12
        return (self.cell(cell) + self.page(page[..., None]) + self.lately(lately)).flatten(2)


class Recent(nn.Module):
    """What was done to the block of every slot lately, as one number: a finite automaton that reads tokens.

    The number stands for the block's last command (none, erase, program, read), how many pages behind the newest one
    its last read was, and how many programs were in its latest row without a read between them. In the order of time
    commands to other blocks come between, over which a recurrent memory has to carry all this.
    """

    def __init__(self, vocabulary: Vocabulary):
        super().__init__()
        ages = vocabulary.num_ages
        shape = (4, ages + 1, LONGEST_ROW + 1)
        self.num_codes, self.fresh = int(np.prod(shape)), int(np.ravel_multi_index((NOTHING, ages, 0), shape))
        codes = np.arange(self.num_codes)
        last, age, row = np.unravel_index(codes, shape)
        longer = np.where(last == PROGRAM, np.minimum(row + 1, LONGEST_ROW), 1)
        none, same = np.full_like(codes, ages), np.zeros_like(codes)
        after = [
            (same + ERASE, none, same),
            (same + PROGRAM, np.minimum(age + 1, ages), longer),
            (same + NOTHING, none, same),
            *((same + READ, same + read, row) for read in range(ages)),
        ]
        table = np.stack([codes, *(np.ravel_multi_index(each, shape) for each in after)], 1)
        size = len(vocabulary)
        kind, slot, offset = vocabulary.kind[:size], vocabulary.slot[:size], vocabulary.offset[:size]
        event = np.select([kind == ERASE, kind == PROGRAM, kind == OPEN, kind == READ], [1, 2, 3, 4 - offset], 0)
        events = np.zeros((size + 1, vocabulary.num_slots), np.int64)  # of each slot; the last token begins a sequence
        events[np.arange(size), slot] = event
        self.num_events = table.shape[1]
        self.register_buffer("table", torch.from_numpy(table.ravel()), persistent=False)
        self.register_buffer("events", torch.from_numpy(events), persistent=False)

    def forward(self, previous: Tensor, codes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, S) the numbers after each of the tokens (B, T), and the last ones (B, S) to go on from."""
        events, result = self.events[previous], []
        codes = torch.full_like(events[:, 0], self.fresh) if codes is None else codes
        for event in events.unbind(1):
            codes = self.table[codes * self.num_events + event]
            result.append(codes)
        return torch.stack(result, 1), codes


class NetworkPolicy:
    """The network as a policy."""

    def __init__(self, network: TokenGRU):
        self.network = network

    def begin(self, state: LiveState, scenario: Tensor) -> None:
        self.state, self.scenario, self.memory = state, scenario, None

    def logits(self, previous: Tensor) -> Tensor:
        newest = self.state.newest[:, None]
        logits, self.memory = self.network(previous[:, None], newest, self.scenario, self.memory)
        return logits[:, 0]


class UniformPolicy:
    """Every legal command equally likely: the random walk that a generator must beat."""

    def begin(self, state: LiveState, scenario: Tensor) -> None:
        self.state = state
        self.commands = state.kind[: len(state.vocabulary)] <= READ

    def logits(self, previous: Tensor) -> Tensor:
        return torch.where(self.state.legal() & self.commands, 0.0, -torch.inf)


class CompatPolicy:
    """The founding generator (nandseq specification, section 4) with its known probabilities.

    Every block is erased once, in order; then a random block is programmed or read, in equal shares where both are
    possible, and a read takes any of the legal ages.
    """

    def begin(self, state: LiveState, scenario: Tensor) -> None:
        self.state = state

    def logits(self, previous: Tensor) -> Tensor:
        legal, slots = self.state.legal(), self.state.vocabulary.num_slots
        programs = legal[:, slots : 2 * slots].float()
        reads = legal[:, 2 * slots : -1 - slots].unflatten(1, (slots, -1)).float()
        reads /= reads.sum(2, keepdim=True).clamp(min=1)
        choices = slots * (programs + reads.sum(2)).clamp(min=1)
        shares = torch.zeros(legal.shape, device=legal.device)
        shares[:, slots : 2 * slots] = programs / choices
        shares[:, 2 * slots : -1 - slots] = (reads / choices[..., None]).flatten(1)
        num_erased = (self.state.newest > UNKNOWN).sum(1)
        beginning = num_erased < slots
        shares[beginning] = functional.one_hot(num_erased[beginning], legal.shape[1]).float()
        return shares.log()


@dataclass
class Sample:
    """N sampled sequences.

    Attributes:
        tokens: (N, T) int16 tokens and fault moves, PAD after the end.
        walks: the commands they stand for, in L columns.
        scenario: (N,) int64, what was asked for.
        bad_index, rule: (N,) the command that was made to break a rule, and which; -1 and 0 where none was.
        mask_mass: (N,) float64 probability that the policy gave to illegal tokens, before the mask and before
            temperature and top-p, mean over the steps of each sequence.
    """

    tokens: np.ndarray
    walks: Walks
    scenario: np.ndarray
    bad_index: np.ndarray
    rule: np.ndarray
    mask_mass: np.ndarray


@dataclass
class Sampler:
    """How sequences are drawn from a policy.

    Args:
        temperature: divides the logits.
        top_p: only the likeliest tokens that hold this much probability are drawn from, after the mask.
        masked: only legal tokens are drawn.
    """

    vocabulary: Vocabulary
    profile: Profile
    temperature: float = 1.0
    top_p: float = 1.0
    masked: bool = True

    @torch.inference_mode()
    def draw(
        self,
        policy: Policy,
        scenario: np.ndarray,
        num_ops: int,
        seed: int,
        fault_at: np.ndarray | None = None,
        fault_rule: Rule | None = None,
        start: np.ndarray | None = None,
        device: torch.device | str = "cpu",
    ) -> Sample:
        """A sequence for each entry of `scenario` (N,), of `num_ops` commands or fewer where the policy ends it.

        Args:
            fault_at: (N,) command that is to break a rule, -1 for none. Where nothing can break `fault_rule` at that
                command, the first one does at which something can.
            fault_rule: which rule; None takes any that can be broken, in equal shares.
            start: (N, S) newest pages to begin with, where blocks do not begin `fresh`.
        """  # fmt: skip
        first = None if start is None else torch.from_numpy(np.asarray(start, np.int64)).clone()
        state = LiveState(len(scenario), self.vocabulary, self.profile, device, first)
        generator = torch.Generator(device).manual_seed(seed)
        due = torch.full((len(scenario),), -1) if fault_at is None else torch.from_numpy(fault_at.astype(np.int64))
        run = _Run(state, due.to(device), fault_rule, num_ops)
        policy.begin(state, torch.from_numpy(scenario.astype(np.int64)).to(device))
        previous = torch.full((len(scenario),), -1, device=device)
        nearest = torch.from_numpy(self.vocabulary.nearest).to(device)
        while bool(run.going.any()):
            logits, legal = policy.logits(previous), state.legal()
            run.note_mass((logits.softmax(1) * ~legal).sum(1))
            logits = run.postpone_end(logits)
            token = choose(logits, legal if self.masked else None, self.temperature, self.top_p, generator)
            token = run.put(token, generator)
            previous = nearest[token]
        return self._sample(run, scenario, num_ops, start)

    def _sample(self, run: "_Run", scenario: np.ndarray, num_ops: int, start: np.ndarray | None) -> Sample:
        tokens = torch.stack(run.tokens, 1).cpu().numpy().astype(np.int16)
        walks = decode(tokens, self.vocabulary, self.profile, start, num_ops)
        mass = (run.mass / run.steps.clamp(min=1)).cpu().numpy()
        return Sample(tokens, walks, scenario, run.bad_index.cpu().numpy(), run.rule.cpu().numpy(), mass)


class _Run:
    """Where each of N sequences stands while they are drawn."""

    def __init__(self, state: LiveState, due: Tensor, fault_rule: Rule | None, num_ops: int):
        self.state, self.due, self.fault_rule, self.num_ops = state, due, fault_rule, num_ops
        self.tokens: list[Tensor] = []
        self.done = torch.zeros_like(due)
        self.going = torch.ones_like(due, dtype=torch.bool)
        self.bad_index, self.rule = torch.full_like(due, -1), torch.zeros_like(due)
        self.mass, self.steps = torch.zeros(due.shape, dtype=torch.float64, device=due.device), torch.zeros_like(due)

    def note_mass(self, illegal: Tensor) -> None:
        self.mass += torch.where(self.going, illegal, 0)
        self.steps += self.going

    def postpone_end(self, logits: Tensor) -> Tensor:
        """The logits without an end for the sequences whose fault is still to come."""
        pending = (self.due >= 0)[:, None] & (self.state.kind[: logits.shape[1]] == END)
        return logits.masked_fill(pending, -torch.inf)

    def put(self, token: Tensor, generator: torch.Generator) -> Tensor:
        """Take a token of each sequence, or the fault that is due in its place; returns what was taken."""
        state = self.state
        wanted = self.going & (self.due >= 0) & (self.due <= self.done)
        if bool(wanted.any()):
            token = self._put_faults(token, wanted, generator)
        token = torch.where(self.going, token, state.vocabulary.end)
        self.tokens.append(torch.where(self.going, token, PAD))
        state.advance(token)
        self.done += state.is_op[token]
        self.going &= (state.kind[token] != END) & (self.done < self.num_ops)
        # a policy that opens slots for ever would never finish
        self.going &= len(self.tokens) < 2 * self.num_ops
        return token

    def _put_faults(self, token: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
        codes = self.state.codes()
        bad = (codes > int(Rule.ADDR_RANGE)) if self.fault_rule is None else codes == int(self.fault_rule)
        wanted = wanted & bad.any(1)
        counts = functional.one_hot(codes, int(codes.max()) + 1).sum(1).gather(1, codes)
        weights = torch.where(bad, 1 / counts, 0.0)
        weights[~wanted, 0] = 1  # rows that are not used must hold something
        fault = draw_index(weights, generator)
        self.bad_index = torch.where(wanted, self.done, self.bad_index)
        self.rule = torch.where(wanted, codes[self.state.lanes, fault], self.rule)
        self.due = torch.where(wanted, -1, self.due)
        return torch.where(wanted, fault, token)


def choose(
    logits: Tensor, legal: Tensor | None, temperature: float, top_p: float, generator: torch.Generator | None = None
) -> Tensor:
    """(N,) tokens drawn from the logits (N, V), after the mask if there is one, then temperature, then top-p."""
    if legal is not None:
        assert legal.any(1).all(), "a mask without a legal token: an erase is always legal"
        logits = torch.where(legal, logits, -torch.inf)
    shares = (logits / temperature).softmax(1)
    if top_p < 1:
        ordered, order = shares.sort(1, descending=True)
        # the token that crosses top_p still belongs to the likeliest
        ordered = torch.where(ordered.cumsum(1) - ordered < top_p, ordered, 0)
        shares = torch.zeros_like(shares).scatter(1, order, ordered)
    return draw_index(shares, generator)


def draw_index(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """(N,) an index of each row, in proportion to its weights (N, V); one random number a row."""
    below = weights.cumsum(1)
    total = below[:, -1:]
    point = torch.rand(total.shape, generator=generator, device=total.device) * total
    # rounding must not reach the total, or an index of weight 0 could be drawn
    return (below <= point.minimum(total.nextafter(torch.zeros_like(total)))).sum(1)


@torch.inference_mode()
def log_likelihood(
    policy: Policy,
    tokens: np.ndarray,
    vocabulary: Vocabulary,
    profile: Profile,
    scenario: np.ndarray,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """(N, T) float64 log-probability, in nats, that the policy gives each token of given sequences; 0 where PAD."""
    first = None if start is None else torch.from_numpy(np.asarray(start, np.int64)).clone()
    state = LiveState(len(tokens), vocabulary, profile, start=first)
    policy.begin(state, torch.from_numpy(scenario.astype(np.int64)))
    previous = torch.full((len(tokens),), -1)
    result = np.zeros(tokens.shape)
    steps = torch.from_numpy(np.where(tokens == PAD, vocabulary.end, tokens).astype(np.int64))
    for t in range(tokens.shape[1]):
        said = policy.logits(previous).double().log_softmax(1).gather(1, steps[:, t, None])[:, 0]
        result[:, t] = np.where(tokens[:, t] == PAD, 0, said.numpy())
        state.advance(steps[:, t])
        previous = steps[:, t]
    return result
