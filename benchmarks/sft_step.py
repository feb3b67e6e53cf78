"""An SFT training step of mixalign against TRL's: speed, memory, and that both compute the same loss.

Variants: `ours`, through mixalign's own trainer; `trl_default`, TRL as it comes; `trl_padding_free` and `trl_packing`,
without gradient checkpointing; `trl_best`, without it and with batches grouped by length; `trl_default_plain`, TRL
without the allocator hints that the others run with.
"""

from common import parser
from step_time import compare

if __name__ == "__main__":
    compare("sft", __file__, parser(__doc__, steps=10).parse_args())
