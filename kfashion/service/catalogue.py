"""The products that can be recommended: one SQLite file holds each with its picture and its vector.

So a product and its vector appear and go together, whenever the process is killed.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from common.errors import UserError
from kfashion.encoders import OUTPUT_DIM
from kfashion.search import Identity

VERSION = 1
LOG_BYTES = 2**26  # to which the write-ahead log is cut; the first filling makes it as large as the catalogue
ANEW = "move it away to have it made anew."
COLUMNS = "item_id, record, metadata, owner, is_new, created_at"
SCHEMA = """
    CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS products (
        number INTEGER PRIMARY KEY, item_id TEXT NOT NULL UNIQUE, record TEXT NOT NULL, metadata TEXT NOT NULL,
        owner TEXT NOT NULL, is_new INTEGER NOT NULL, created_at TEXT NOT NULL, vector BLOB NOT NULL,
        picture BLOB NOT NULL
    );
    CREATE INDEX IF NOT EXISTS by_novelty ON products (is_new, number);
    CREATE INDEX IF NOT EXISTS by_owner ON products (owner);
"""
Record = dict[str, Any]


class ItemExists(Exception):
    """A product of this name is in the catalogue."""


@dataclass(frozen=True)
class Product:
    """A garment of the shop.

    Attributes:
        record: the five fields.
        owner: products of one owner show the same image or look and are never recommended for each other.
        is_new: whether it may be recommended; others may only be asked with.
        metadata: brand, price, color, launch_date as far as they are known.
    """

    item_id: str
    record: Record
    owner: str
    is_new: bool = True
    metadata: dict[str, Any] = field(default_factory=dict)
    created_at: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))


@dataclass(frozen=True)
class Stored:
    """A product as it is put into the store: with its (512,) float32 vector of length 1 and its JPEG."""

    product: Product
    vector: np.ndarray
    picture: bytes


class ProductStore:
    """The SQLite file. What a call has returned from survives a kill and a power cut; half of it never shows.

    Args:
        path: of the file; made if it is not there.
        identity: that the vectors belong to.

    Raises:
        UserError: if another process uses the file, or its vectors are of another identity.
    """

    def __init__(self, path: Path, identity: Identity):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.identity, self.file_lock = path, identity, FileLock(path.with_suffix(".lock"))
        try:
            self.file_lock.acquire(blocking=False)
        except Timeout:
            raise UserError(f"{path}: another service is using it; stop that one, or serve another run.") from None
        try:
            self.writer, self.reader = _connect(path), _connect(path)
            self._open(identity)
        except sqlite3.DatabaseError as error:
            self.file_lock.release()
            raise UserError(f"{path}: no catalogue can be read ({error}); {ANEW}") from None
        self.write_lock, self.read_lock = Lock(), Lock()

    def _open(self, identity: Identity) -> None:
        self.writer.executescript(SCHEMA)
        about = json.dumps({"version": VERSION, **asdict(identity)}, sort_keys=True)
        self.writer.execute("INSERT OR IGNORE INTO about VALUES ('identity', ?)", (about,))
        (stored,) = self.writer.execute("SELECT value FROM about WHERE name = 'identity'").fetchone()
        if stored != about:
            self.file_lock.release()
            raise UserError(f"{self.path}: its vectors belong to other weights; {ANEW}")

    def close(self) -> None:
        with self.write_lock, self.read_lock:
            self.writer.close()
            self.reader.close()
        self.file_lock.release()

    @property
    def filled(self) -> bool:
        """Whether `fill` has ended once."""
        return bool(self._read("SELECT 1 FROM about WHERE name = 'filled'"))

    def fill(self, products: Iterable[Stored]) -> None:
        """Add all products, or none if it is interrupted."""
        with self.write_lock, self.writer:
            self.writer.execute("BEGIN IMMEDIATE")
            for each in products:
                self._insert(each)
            self.writer.execute("INSERT OR IGNORE INTO about VALUES ('filled', 'yes')")

    def add(self, product: Stored) -> None:
        """Add one product; it is on disk on return.

        Raises:
            ItemExists: if there is one of its name.
        """
        with self.write_lock, self.writer:
            self.writer.execute("BEGIN IMMEDIATE")
            self._insert(product)

    def remove(self, item_id: str) -> bool:
        """Take a new product out; False if there is none of that name."""
        with self.write_lock, self.writer:
            done = self.writer.execute("DELETE FROM products WHERE item_id = ? AND is_new", (item_id,))
            return done.rowcount == 1

    def find(self, item_ids: Sequence[str]) -> dict[str, Product]:
        """The products of these names, as far as they are there."""
        marks = ", ".join("?" * len(item_ids))
        rows = self._read(f"SELECT {COLUMNS} FROM products WHERE item_id IN ({marks})", item_ids)
        return {row[0]: _product(row) for row in rows}

    def vector(self, item_id: str) -> np.ndarray | None:
        """(512,) float32."""
        rows = self._read("SELECT vector FROM products WHERE item_id = ?", (item_id,))
        return np.frombuffer(rows[0][0], np.float32) if rows else None

    def of_same_owner(self, item_id: str) -> list[str]:
        """The names of all products of this product's owner, its own among them."""
        query = "SELECT item_id FROM products WHERE owner = (SELECT owner FROM products WHERE item_id = ?)"
        return [name for (name,) in self._read(query, (item_id,))]

    def picture(self, item_id: str) -> bytes | None:
        """A JPEG."""
        rows = self._read("SELECT picture FROM products WHERE item_id = ?", (item_id,))
        return rows[0][0] if rows else None

    def page(self, offset: int, limit: int, is_new: bool = True) -> list[Product]:
        """Products in the order in which they were added."""
        query = f"SELECT {COLUMNS} FROM products WHERE is_new = ? ORDER BY number LIMIT ? OFFSET ?"
        return [_product(row) for row in self._read(query, (is_new, limit, offset))]

    def count(self, is_new: bool = True) -> int:
        return self._read("SELECT count(*) FROM products WHERE is_new = ?", (is_new,))[0][0]

    def new_products(self) -> tuple[list[str], list[Record], np.ndarray]:
        """Names, records and (N, 512) vectors of all that may be recommended."""
        rows = self._read("SELECT item_id, record, vector FROM products WHERE is_new ORDER BY number")
        vectors = np.frombuffer(b"".join(row[2] for row in rows), np.float32).reshape(len(rows), OUTPUT_DIM)
        return [row[0] for row in rows], _read_together([row[1] for row in rows]), vectors

    def new_records(self) -> list[Record]:
        """The records of all that may be recommended."""
        return _read_together([record for (record,) in self._read("SELECT record FROM products WHERE is_new")])

    def _insert(self, each: Stored) -> None:
        product = each.product
        row = (product.item_id, _json(product.record), _json(product.metadata), product.owner, product.is_new,
               product.created_at, np.ascontiguousarray(each.vector, np.float32).tobytes(), each.picture)  # fmt: skip
        try:
            self.writer.execute(
                f"INSERT INTO products ({COLUMNS}, vector, picture) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row
            )
        except sqlite3.IntegrityError:
            raise ItemExists(product.item_id) from None

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[tuple]:
        try:
            with self.read_lock:
                return self.reader.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path}: cannot be read ({error}); {ANEW}") from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a commit is on disk before it is acknowledged
    connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
    return connection


def _product(row: tuple) -> Product:
    item_id, record, metadata, owner, is_new, created_at = row
    return Product(item_id, json.loads(record), owner, bool(is_new), json.loads(metadata), created_at)


def _json(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False)


def _read_together(texts: list[str]) -> list[Record]:
    """Records in JSON, in half the time that they would take one by one."""
    return json.loads(f"[{','.join(texts)}]")
