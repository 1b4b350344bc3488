"""An attribute encoder aligned with a frozen image encoder: five fields of a garment and its photo share one space.

Judged by retrieval over the full gallery, with chance level and interval beside every figure, because the published
figures of an earlier implementation turned out to be chance. `labels` reads K-Fashion label files, `records` turns
garments into tensors, `encoders` and `vectors` give every garment crop one vector, once. Source: "kfashion
specification".
"""
