"""Candle charts of trading windows, drawn in batches on the windows' own device.

While it is painted, a pixel is one byte: two bits of rank (what lies on top) above two bits each of red, green and
blue. Painting one layer over another is then an elementwise maximum, and a channel comes out by a shift.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from common.errors import UserError


def _paint(rank: int, red: int, green: int, blue: int) -> int:
    return rank << 6 | red << 4 | green << 2 | blue


WHITE = _paint(0, 3, 3, 3)
# Wicks and volume are paler than bodies: in a candle that is one column wide, the body still shows.
PALE_UP, PALE_DOWN = _paint(1, 1, 3, 2), _paint(1, 3, 2, 2)
BAND = _paint(1, 2, 2, 3)
UP, DOWN = _paint(2, 0, 2, 1), _paint(2, 3, 0, 0)
AVERAGES = (_paint(3, 0, 0, 3), _paint(3, 3, 2, 0), _paint(3, 2, 0, 3), _paint(3, 0, 2, 3))

BAND_DAYS, BAND_DEVIATIONS = 20, 2
CHUNK_PIXELS = 2**18  # painted at once on a CPU: the byte maps of a chunk stay in its second-level cache

Rows = tuple[Tensor, Tensor]  # first row and row after the last; nothing where the first is not smaller


class ChartRenderer:
    """Candle charts of trading windows: a pure function of each window (lasps specification, section 3).

    White background, no axes, no margins. Each session has a slot of size / T columns; rows run from the highest high
    of the window to its lowest low. Candles are green where close ≥ open, else red; over them lie the averages of the
    close, from the session on that completes them inside the window. Where all prices are equal, everything lies in
    the middle. What leaves the rows, as a Bollinger band can, is cut off.

    Args:
        size: height and width in pixels; at least one column per session.
        averages: sessions of each moving average, drawn in blue, orange, purple and light blue.
        bollinger: draw the 20-session mean ± 2 sample standard deviations, behind the bodies.
        volume_panel: keep the bottom fifth for volume bars, scaled by the window's largest volume.
    """

    def __init__(
        self,
        size: Annotated[int, Field(ge=16, le=1024)] = 224,
        averages: Annotated[Sequence[Annotated[int, Field(ge=1)]], Field(max_length=len(AVERAGES))] = (5, 20),
        bollinger: bool = False,
        volume_panel: bool = False,
    ):
        self.size, self.averages = size, list(averages)
        self.bollinger, self.volume_panel = bollinger, volume_panel

    def __call__(self, ohlcv: Tensor) -> Tensor:
        """(B, 3, size, size) float32 images in [0, 1], channels red, green, blue, on the windows' device.

        Args:
            ohlcv: (B, T, 5) finite raw open, high, low, close and volume, oldest session first.

        Raises:
            UserError: if a window has more sessions than the image has columns.
        """
        count, days, _ = ohlcv.shape
        if days > self.size:
            raise UserError(f"charts: {days} sessions do not fit into {self.size} columns. Set size={days} or more.")
        layers = self._layers(ohlcv.float(), _Slots(days, self.size, ohlcv.device))
        paint, start, stop = (torch.stack(part).unsqueeze(2) for part in zip(*layers, strict=True))
        images = torch.empty(count, 3, self.size, self.size, dtype=torch.float32, device=ohlcv.device)
        chunk = max(1, CHUNK_PIXELS // self.size**2 if ohlcv.is_cpu else count)
        for part in (slice(begin, begin + chunk) for begin in range(0, count, chunk)):
            _draw(paint[:, part].byte(), start[:, part], stop[:, part], images[part])
        return images

    def _layers(self, ohlcv: Tensor, slots: "_Slots") -> list[tuple[Tensor, Tensor, Tensor]]:
        """Paint, first row and row after the last in every column, (B, size) each, of all that is drawn."""
        open_, high, low, close, volume = ohlcv.unbind(-1)
        panel = self.size // 5 if self.volume_panel else 0
        axis = _PriceAxis(high.amax(1, keepdim=True), low.amin(1, keepdim=True), self.size - panel)
        body, pale = torch.where(close >= open_, UP, DOWN), torch.where(close >= open_, PALE_UP, PALE_DOWN)
        layers = [
            slots.bars(pale, axis.between(high, low), slots.wick),
            slots.bars(body, axis.between(open_, close), slots.body),
        ]
        if self.volume_panel:
            layers.append(slots.bars(pale, _volume_rows(volume, self.size, panel), slots.body))
        if self.bollinger and len(slots.centre) >= BAND_DAYS:
            layers += [slots.line(BAND, axis, band) for band in _bands(close)]
        for paint, days in zip(AVERAGES, self.averages):
            if days <= len(slots.centre):
                layers.append(slots.line(paint, axis, _average(close, days)))
        return layers


class _PriceAxis:
    """Rows of prices: 0 at `top`, rows − 1 at `bottom`, the middle where the two are equal."""

    def __init__(self, top: Tensor, bottom: Tensor, rows: int):
        self.top, self.span, self.rows = top, top - bottom, rows

    def __call__(self, price: Tensor) -> Tensor:
        return torch.where(self.span > 0, (self.top - price) / self.span, 0.5) * (self.rows - 1)

    def between(self, price: Tensor, other: Tensor) -> Rows:
        """Rows from one price to the other, both included."""
        row, other = self(price).round(), self(other).round()
        return self.cut(torch.minimum(row, other), torch.maximum(row, other))

    def cut(self, first: Tensor, last: Tensor) -> Rows:
        """Rows from `first` to `last`, both included, without those off the axis."""
        return first.clamp(0, self.rows), (last + 1).clamp(0, self.rows)


class _Slots:
    """Columns of the sessions.

    Attributes:
        session: (size,) session of each column.
        body, wick: (size,) bool, columns of the bodies, five sixths of a slot at most and odd, and of the wicks.
        centre: (T,) column of each wick.
    """

    def __init__(self, days: int, size: int, device: torch.device):
        half = max(0, (5 * size // (6 * days) - 1) // 2)
        column = torch.arange(size, device=device)
        self.session = column * days // size
        self.centre = (torch.arange(days, device=device) * size + days - 1) // days + half
        distance = (column - self.centre[self.session]).abs()
        self.wick, self.body = distance == 0, distance <= half

    def bars(self, paint: Tensor, rows: Rows, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Layer of one bar per session, in the columns `drawn`."""
        start, stop = (row[:, self.session] for row in rows)
        return paint[:, self.session].float(), start, stop * drawn

    def line(self, paint: int, axis: _PriceAxis, price: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Layer of a line through the prices (B, M) of the last M sessions, from wick to wick.

        A column holds the row that the line is nearest to in the column's middle and those it crosses in the column,
        so that the line is thin where it is flat and has no holes where it is steep.
        """
        centre = self.centre[len(self.centre) - price.shape[1] :]
        column = torch.arange(len(self.session), device=centre.device)
        at = torch.arange(-0.5, len(self.session), 0.5, device=centre.device).clamp(centre[0], centre[-1])
        before = torch.searchsorted(centre.float(), at, right=True) - 1
        after = (before + 1).clamp(max=len(centre) - 1)
        weight = (at - centre[before]) / (centre[after] - centre[before]).clamp(min=1)
        row = axis(price)
        row = row[:, before] + weight * (row[:, after] - row[:, before])  # lerp rounds differently from batch to batch
        left, middle, right = row[:, :-1:2], row[:, 1::2].round(), row[:, 2::2]
        first = torch.minimum(torch.minimum(left, right).ceil(), middle)
        last = torch.maximum(torch.maximum(left, right).floor(), middle)
        start, stop = axis.cut(first, last)
        return torch.full_like(start, paint), start, stop * ((column >= centre[0]) & (column <= centre[-1]))


def _average(close: Tensor, days: int) -> Tensor:
    """(B, T − days + 1) means over `days` sessions.

    A sum of shifted windows: elementwise steps round alike in every batch and on every device, reductions do not.
    """
    length = close.shape[1] - days + 1
    return sum(close[:, shift : shift + length] for shift in range(days)) / days


def _bands(close: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower Bollinger band, (B, T − 19) each."""
    mean = _average(close, BAND_DAYS)
    length = mean.shape[1]
    squares = sum((close[:, shift : shift + length] - mean).square() for shift in range(BAND_DAYS))
    width = BAND_DEVIATIONS * (squares / (BAND_DAYS - 1)).sqrt()
    return mean + width, mean - width


def _volume_rows(volume: Tensor, size: int, panel: int) -> Rows:
    """Rows of the volume bars, (B, T) each, in the bottom `panel` rows of the picture."""
    share = volume / volume.amax(1, keepdim=True).clamp(min=torch.finfo(volume.dtype).tiny)
    height = (share * (panel - 1)).round()  # one row stays white below the prices
    return size - height, torch.full_like(height, size)


def _draw(paint: Tensor, start: Tensor, stop: Tensor, images: Tensor) -> None:
    """Fill `images` (B, 3, size, size) with layers (L, B, 1, size): in each column, rows start … stop − 1."""
    size = images.shape[-1]
    number = torch.uint8 if size < 256 else torch.int16  # bytes compare many times faster
    start, stop = start.to(number), stop.to(number)
    # written out: comparing with an expanded last dimension is slow
    row = torch.arange(size, dtype=number, device=images.device)[:, None].repeat(1, size)
    pixels = torch.full((len(images), size, size), WHITE, dtype=torch.uint8, device=images.device)
    for layer in range(len(paint)):
        inside = (row >= start[layer]) & (row < stop[layer])
        pixels = torch.maximum(pixels, inside.view(torch.uint8) * paint[layer])
    for channel, shift in enumerate((4, 2, 0)):
        images[:, channel] = (pixels >> shift) & 3
    images *= 1 / 3
