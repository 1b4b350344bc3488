"""Numbers of commands and rules (nandseq specification, sections 2, 3 and 7)."""

from enum import IntEnum, IntFlag

UNKNOWN_OP = -1  # any name or number that is no command; the rule engine answers ADDR_RANGE


class Op(IntEnum):
    """Commands. Those from 3 up belong to the extended rules; without these they act as the `KIND` they stand for."""

    ERASE = 0
    PROGRAM = 1
    READ = 2
    COPYBACK_READ = 3
    COPYBACK_PROGRAM = 4
    CACHE_READ = 5  # 31h, with the page it makes available
    CACHE_PROGRAM = 6  # 15h
    CACHE_READ_END = 7  # 3Fh
    SUSPEND = 8
    RESUME = 9
    RESET = 10
    STATUS = 11
    SET_RETRY = 12  # `page` is the read-retry level
    POWER_LOSS = 13  # all dies


class Kind(IntEnum):
    """What a command does to the array, and which of its address fields count."""

    ERASE = 0
    PROGRAM = 1
    READ = 2
    PLANE = 3  # die and plane
    DIE = 4  # die only
    NOWHERE = 5


KIND = {
    Op.ERASE: Kind.ERASE,
    Op.PROGRAM: Kind.PROGRAM,
    Op.READ: Kind.READ,
    Op.COPYBACK_READ: Kind.READ,
    Op.COPYBACK_PROGRAM: Kind.PROGRAM,
    Op.CACHE_READ: Kind.READ,
    Op.CACHE_READ_END: Kind.PLANE,
    Op.CACHE_PROGRAM: Kind.PROGRAM,
    Op.SUSPEND: Kind.DIE,
    Op.RESUME: Kind.DIE,
    Op.RESET: Kind.DIE,
    Op.STATUS: Kind.DIE,
    Op.SET_RETRY: Kind.DIE,
    Op.POWER_LOSS: Kind.NOWHERE,
}


class Rule(IntEnum):
    """Rules; the mask of an op has bit `rule` set where it is broken. From `PE_WARN` up they are warnings."""

    OK = 0
    ADDR_RANGE = 1
    NOT_ERASED = 2
    REPROGRAM = 3  # called NOP_EXCEEDED where a page may be programmed more than once
    PAGE_ORDER = 4
    READ_UNWRITTEN = 5
    READ_STALE = 6
    READ_TOO_CLOSE = 7
    BAD_BLOCK = 8
    PE_LIMIT = 9
    BUSY = 10
    MP_PLANE = 11
    MP_PAGE = 12
    MP_OP = 13
    COPYBACK_PLANE = 14
    CACHE_SEQ = 15
    SUSPEND_STATE = 16
    PARTIAL_ERASE = 17
    WL_ORDER = 18
    OPEN_BLOCK_AGE = 19
    READ_RETRY = 20
    MODE = 21
    PE_WARN = 28
    PAIR_RISK = 29
    READ_DISTURB = 30

    @property
    def is_warning(self) -> bool:
        return self >= Rule.PE_WARN

    @property
    def bit(self) -> int:
        return 1 << self


VIOLATIONS = (1 << Rule.PE_WARN) - 2  # bits of the mask that make an op invalid


class Flag(IntFlag):
    """What a verdict says of the block before the op, beside the mask."""

    KNOWN = 1
    PAGE_PROGRAMMED = 2
    INDETERMINATE = 4
