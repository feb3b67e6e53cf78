"""A DPO training step of mixalign against TRL's: speed, memory, and that both compute the same loss.

Variants: `ours`, through mixalign's own trainer; `trl_default`, TRL as it comes; `trl_best`, without gradient
checkpointing, with precomputed reference and batches grouped by length; `trl_default_plain`, TRL without the allocator
hints that the others run with.
"""

from common import parser
from step_time import compare

if __name__ == "__main__":
    compare("dpo", __file__, parser(__doc__).parse_args())
