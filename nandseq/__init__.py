"""Validity, classification and generation of NAND command sequences.

The rule engine answers what is legal: `nandseq.rules.check` judges one trace, `nandseq.rules.check_batch` many short
sequences, both under a device profile (`nandseq.profiles.Profile`). `nandseq.reference` is the same protocol in plain
Python, written from the specification ("nandseq specification, sections 2, 3 and 7"), and the oracle of the tests.
"""
