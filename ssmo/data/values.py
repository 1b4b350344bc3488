"""What forecasting and operator learning share: targets that are numbers."""

import numpy as np

from ssmo.data.base import PairData


class ValueData(PairData):
    """Base of data whose targets are float32 values. Noisy targets have σ = `strength` × deviation of all targets."""

    strengths = PairData.strengths | {"weak_labels": 0.1}

    def noisy(self, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return y + np.float32(self.strength * y.std()) * rng.standard_normal(y.shape, np.float32)
