"""Sector-aware Korean stock prediction (SELL/HOLD/BUY) from 60 sessions of indicators and a candle chart.

Experiments: `lasps_phase1` (backbone, common head) → `lasps_phase3` (fine-tuning) → `lasps_phase2` (sector heads on
the frozen backbone). The page docs/lasps.md says what each figure means and how to run on your own data.
"""
