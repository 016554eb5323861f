"""A reference that comes after publication: what the judge tells the nodes, and which slots are counted with it.

The judge names the first slot that counts with it, two ahead, so that all nodes have heard of it by then. A slot is
counted with one reference, so counts of two never add up: a node that hears of it too late begins with its next slot,
and what it counted until then is left out of the evidence. Which rows those are has nothing to do with what is in them.
"""

import msgspec

from monitors.profile import Profile

AHEAD = 2  # slots, from that of the newest row


class Adoption(msgspec.Struct, frozen=True):
    """From slot `since` on the version with the digest `content` is compared with the profile `reference`, a digest.

    `order` is the number of the order that brought it, `rows` says of which rows it is. Order 0 is the publication:
    its reference, of digest "" where there is none, holds again where the registry was restored from a copy.
    """

    model: str
    version: str
    content: str
    order: int
    reference: str
    since: int
    rows: str = ""


class Edition(msgspec.Struct, frozen=True):
    """A reference as a node has it: slots from `since` on are counted with it, until the next one's begin.

    Where the registry was restored from a copy, an order's number comes again with another profile: `digest` tells.
    """

    order: int
    since: int
    profile: Profile | None
    digest: str  # empty where there is no profile
    place: int  # among those of the version, in which they were taken up
