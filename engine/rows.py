"""What is being decoded: the requests of one call, and the rows that answer them. sample.Sampler has the loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from engine.draw import pick_token
from engine.files import OptionError
from engine.kept import Kept
from engine.logits import model_logits
from engine.slots import Prefill, SlotCache, can_unroll, can_varlen, decode_layers, joined, own_forward, packs, unroll
from engine.supported import longest_exact


@dataclass
class Requests:
    """What one call of `Sampler.sample` asks for: request k is answer k % samples to prompt k // samples."""

    prompts: Sequence[list[int]]
    samples: int
    caps: list[int]
    temperature: float
    top_p: float
    seed: int
    label: str
    on_token: Callable[[int, int], None] | None
    kept: Kept | None = None

    def __len__(self) -> int:
        return len(self.prompts) * self.samples

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(p) for p in self.prompts)

    def check(self, config) -> None:
        """Raises OptionError for what this model, by its config, cannot answer."""
        limit, why = longest_exact(config)
        if self.samples < 1 or len(self.caps) != len(self) or any(cap < 1 for cap in self.caps):
            raise OptionError("samples and cap must be at least 1, and a list of caps needs one for each rollout")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise OptionError(f"temperature {self.temperature} must be at least 0 and top_p {self.top_p} in (0, 1]")
        if len(self) and min(len(p) for p in self.prompts) == 0:
            raise OptionError("a prompt is empty")
        if len(self) and self.longest + max(self.caps) > limit:
            raise OptionError(
                f"the longest prompt ({self.longest} tokens) and the cap ({max(self.caps)}) exceed the model's "
                f"{why} of {limit}; lower the cap or drop the prompt"
            )

    def uniform(self, k: int) -> torch.Tensor:
        """(cap,) random numbers of request k: a function of seed and k alone."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + k) % 2**63)
        # Just below 1, or rounding in u * cdf could step behind the last token.
        return torch.rand(self.caps[k], generator=generator).clamp(max=1 - 2**-20)


class Rows:
    """The rollouts that are being decoded: rows 0..live-1 of every tensor here. `step` gives each one token.

    Args:
        ends: Ids of the tokens that end a response.
    """

    def __init__(self, model, size: int, requests: Requests, ends: Sequence[int]):
        device, longest = model.device, max(requests.caps)
        self.model = model
        self.slots = SlotCache(model, size, requests.longest + longest, can_varlen(model))
        self.unrolled, self.head = None, None
        if can_unroll(model):
            packed = packs(model)
            self.unrolled = unroll(model.get_decoder(), self.slots.width, self.slots.store, packed)
            self.head = joined(model.get_output_embeddings(), packed=True) if packed else None
        self.temperature, self.top_p = requests.temperature, requests.top_p
        self.ends = torch.tensor(sorted(set(ends)), device=device)               # (ends,)
        self.token = torch.zeros(size, dtype=torch.long, device=device)          # (rows,) input of the next step
        self.count = torch.zeros_like(self.token)                                # (rows,) response tokens so far
        self.cap = torch.zeros_like(self.token)                                  # (rows,)
        self.alive = torch.zeros_like(self.token)                                # (rows,) 1 for a live row, else 0
        self.ended = torch.zeros_like(self.token, dtype=torch.bool)              # (rows,) end token or cap
        self.input = torch.zeros_like(self.token)                                # (rows,) of the last step
        self.sure = torch.ones_like(self.ended)                                  # (rows,) see `draw_nucleus`
        self.uniform = torch.zeros(size, longest, device=device)                 # (rows, cap) random numbers
        self.logp = torch.zeros_like(self.uniform)                               # (rows, cap)
        self.ids = torch.zeros_like(self.uniform, dtype=torch.long)              # (rows, cap)
        # On the host, so that nothing waits for the device.
        self.request = [0] * size                                                # which request a row answers
        self.since = [0] * size                                                  # step at which its length was 0
        self.began = [0] * size                                                  # step at which its response began
        self.size, self.live, self.now = size, 0, 0
        self.bands: list[tuple[int, int]] = []                                   # rows (first, end), see SlotCache

    @property
    def state(self) -> list[torch.Tensor]:
        """What a step both reads and changes, and the log-probs that it writes: see `graphed`."""
        return [self.token, self.count, self.slots.length, self.logp]

    def step(self, n: int, every: bool = False) -> None:
        """One token for the first n rows. Touches no row that is not alive: `graphed` rounds n up."""
        self.slots.open(n)
        token, count, alive = self.token[:n], self.count[:n], self.alive[:n]
        if self.unrolled:
            hidden = decode_layers(self.model.get_decoder(), self.slots, token, self.unrolled)  # (n, H)
        else:
            hidden = own_forward(self.model, self.slots, token)
        logits = model_logits(self.model, hidden, self.head)                     # (n, V)
        place = (self.slots.index[:n], count)
        drawn, logp, sure = pick_token(logits, self.uniform[place][:, None], self.temperature, self.top_p, every)
        if sure is not None:
            self.input[:n], self.sure[:n] = token, sure
        self.ids.index_put_(place, drawn)
        self.logp.index_put_(place, logp)
        token.copy_(drawn)
        count.add_(alive)
        self.slots.length[:n].add_(alive)
        torch.logical_or((drawn[:, None] == self.ends).any(-1), count >= self.cap[:n], out=self.ended[:n])

    def settle(self) -> None:
        """Where a card could not be sure of a token, makes the last step again, with all of the vocabulary sorted."""
        if self.top_p < 1 and not self.sure[: self.live].all():
            for tensor in (self.count, self.slots.length):
                tensor.sub_(self.alive)
            self.token.copy_(self.input)
            self.sure.fill_(True)
            self.step(self.live, every=True)

    def arrange(self, by_band: bool) -> None:
        """Cuts the live rows into bands, each to be read at the width of its longest."""
        size = self.slots.band
        self.bands = [(a, min(self.live, a + size)) for a in range(0, self.live, size)]
        if by_band:
            self.slots.bands = [(a, b, self.now - min(self.since[a:b]) + 1) for a, b in self.bands]

    def admit(self, row: int, k: int, requests: Requests, prefill: Prefill) -> None:
        """Starts request k in a row."""
        i, u = k // requests.samples, requests.uniform(k)
        prompt = requests.prompts[i]
        # The last prompt token is the first input of the loop: its logits give the first response token.
        self.slots.fill(row, prefill[i], len(prompt) - 1)
        self.uniform[row, : len(u)] = u.to(self.uniform.device)
        self.request[row], self.since[row], self.began[row] = k, self.now - (len(prompt) - 1), self.now
        self.token[row], self.count[row], self.cap[row], self.alive[row] = prompt[-1], 0, requests.caps[k], 1
        self.live = max(self.live, row + 1)

    def take(self, row: int) -> tuple[int, list[int], torch.Tensor]:
        """(request, token ids, their log-probs) of a row."""
        n = self.now - self.began[row]
        return self.request[row], self.ids[row, :n].tolist(), self.logp[row, :n].cpu().clone()

    def hole_to_last_band(self, row: int) -> int:
        """Moves the longest row of each band behind one band up, so that rows stay roughly sorted; returns the hole."""
        for a, b in self.bands:
            if row < a < self.live:
                oldest = min(range(a, min(b, self.live)), key=self.since.__getitem__)
                self.move(oldest, row)
                row = oldest
        return row

    def close(self, row: int) -> None:
        """Fills a hole with the last live row; that one's place is dead."""
        self.live -= 1
        if row != self.live:
            self.move(self.live, row)
        self.alive[self.live] = self.count[self.live] = self.slots.length[self.live] = 0

    def move(self, source: int, row: int) -> None:
        """Puts a live row into the place of one that ended."""
        self.slots.move(source, row, self.now - self.since[source])
        for store in (self.count, self.token, self.cap, self.alive, self.uniform, self.ids, self.logp):
            store[row] = store[source]
        for store in (self.request, self.since, self.began):
            store[row] = store[source]
