"""What arithmetic, bytes and nodes cost on the kinds of machines that plans are made for, in seconds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Machine:
    """Seconds that work takes. Only quotients of predictions decide anything, so that no machine is ever asked.

    Attributes:
        flop: an operation of a convolution or a product.
        depthwise_flop: the same where each channel has its own kernel.
        bytes_flop: the same of a convolution in bytes; None where there is no kernel for these.
        narrow: how much longer an operation takes in a window of one column; in wider ones as much less as they are
            wider.
        byte: one that an elementwise node reads or writes, mostly in a cache.
        far_byte: one of maps that no core's own cache holds, whatever is computed of it.
        near_bytes: of one image's maps that it holds.
        gather: a byte that is gathered from a view and the windows over it.
        pool: a byte that is brought beside the others from which is gathered.
        load: a byte that goes from rows into the layout in which convolutions compute.
        store: a byte that goes from such a layout to rows.
        transpose: a byte between rows and maps that no convolution has laid out otherwise.
        index_cell: the index of a cell that is read.
        index_read: what finds out where windows and their rows lie, for one query of one read.
        node: any node of a run.
        stream: a byte of weights that comes from memory for every run.
        spill: a byte of a query's activations, for each byte of its batch's: the more there are of these, the more of
            what one node writes has left the caches when the next reads it.
        batches: queries per run.
        full_batch: images per run of full inference.
        index_apart: whether the index arithmetic runs on a host beside it, where it delays nothing.
    """

    flop: float
    depthwise_flop: float
    bytes_flop: float | None
    narrow: float
    byte: float
    far_byte: float
    near_bytes: int
    gather: float
    pool: float
    load: float
    store: float
    transpose: float
    index_cell: float
    index_read: float
    node: float
    stream: float
    spill: float
    batches: tuple[int, ...]
    full_batch: int
    index_apart: bool


CPU = Machine(
    flop=4.2e-12,
    depthwise_flop=15e-12,
    bytes_flop=1.3e-12,
    narrow=0.6,
    byte=12e-12,
    far_byte=5e-12,
    near_bytes=1_000_000,
    gather=60e-12,
    pool=30e-12,
    load=20e-12,
    store=90e-12,
    transpose=110e-12,
    index_cell=5e-9,
    index_read=0.6e-6,
    node=1.5e-6,
    stream=50e-12,
    spill=3.2e-18,
    batches=(2, 4, 8, 16, 32, 64),
    full_batch=8,
    index_apart=False,
)
"""One core of a server, measured."""

CUDA = Machine(
    flop=0.03e-12,
    depthwise_flop=0.3e-12,
    bytes_flop=None,
    narrow=0.6,
    byte=0.4e-12,
    far_byte=0.0,
    near_bytes=0,
    gather=0.8e-12,
    pool=0.4e-12,
    load=0.8e-12,
    store=0.8e-12,
    transpose=0.8e-12,
    index_cell=0.04e-9,
    index_read=0.0,
    node=5e-6,
    stream=0.4e-12,
    spill=0.0,
    batches=(16, 32, 64, 128, 256, 512),
    full_batch=64,
    index_apart=True,
)
"""A data centre's GPU in float32. Not measured: about half of an H200's published peak rates (67 TFLOP/s, 4.8 TB/s),
bytes twice where they change places, and five microseconds to launch a kernel; the rest is guessed."""

MACHINES = {"cpu": CPU, "cuda": CUDA}
"""By the names that `compile` takes."""
