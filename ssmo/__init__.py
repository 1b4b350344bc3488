"""Selective mutual learning: two models train together and imitate each other only where the peer is currently better.

The claim under test is that this helps unlike models on four tasks (classification, operator learning, time series,
segmentation), does not hurt the stronger one, and makes the imitation gradient conflict less often; each part may be
refuted. The operator data come from `ssmo.fields` (random inputs) and `ssmo.solvers` (their solutions).
Source: "ssmo specification".
"""
