"""Why a file or a face is not in the set: one word for the ledger, one sentence for people, and what to do about it.

Decoding has its own closed list (`fusiform.faces.decode.Reason`), which is explained here too.
"""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """A reason in words.

    Attributes:
        sentence: what it means.
        do: what the user may do, or "".
    """

    sentence: str
    do: str = ""


FILE_REASONS: dict[str, Meaning] = {
    # before a byte is read
    "empty": Meaning("The file has no bytes"),
    "broken-link": Meaning("A link to a file that does not exist", "mount the disk it points to, then run again"),
    "unreadable": Meaning("The system refused to open or read the file", "check its permissions, then run again"),
    "unreadable-folder": Meaning("The system refused to list the folder", "check its permissions, then run again"),
    "linked-folder": Meaning("A link to a folder, which is not entered unless asked", "--follow-links"),
    "not-a-regular-file": Meaning("A pipe, socket or device"),
    "too-large-file": Meaning("More bytes than any photo has"),
    # containers
    "damaged-archive": Meaning("A container that cannot be read, or not to its end", "copy it again"),
    "archive-bomb": Meaning("A container or member that claims to hold far more than it can"),
    "compressed-archive": Meaning(
        "A compressed tar or an archive of a kind that has no random access", "unpack it, or make it a plain tar"
    ),
    "escaping-name": Meaning("A member of an archive whose name leads out of it"),
    "linked-member": Meaning("A link inside an archive"),
    "encrypted-member": Meaning("A member that needs a password", "decrypt the archive first"),
    "unsupported-compression": Meaning("A member packed by a method other than deflate", "pack it again"),
    "no-pictures": Meaning("A table without a column of pictures", "name the column image, with bytes in it"),
    "needs-a-package": Meaning("A source whose reader is not installed", 'pip install "fusiform[sources,cloud]"'),
    # addresses
    "unreachable": Meaning("The address could not be fetched", "run again later"),
    "private-address": Meaning("The address leads into a private network or to this machine", "--allow-private"),
    "outside-roots": Meaning("A local file outside the folders that the list may name", "--roots FOLDER"),
    "unsupported-address": Meaning("An address of a kind that is not fetched", "http(s), s3, gs, az, or a path"),
    # decoding
    "not-an-image": Meaning("The first bytes are of no image format; the extension is not looked at"),
    "unsupported-format": Meaning("An image of a kind that is not decoded", "convert it to JPEG or PNG"),
    "unsupported-pixels": Meaning("Pixels without an agreed reading, such as floats", "convert it to 8 or 16 bits"),
    "truncated": Meaning("The file ends before the picture does", "copy it again from where it came"),
    "corrupt": Meaning("The file contradicts itself", "copy it again from where it came"),
    "too-many-pixels": Meaning("The header says more pixels than the limit", "shrink the picture"),
    "too-small": Meaning("The picture is smaller than the smallest face asked for"),
    "out-of-memory": Meaning("Decoding met the memory limit of a worker", "shrink the picture"),
    "crashed-decoder": Meaning("The file ended its worker process twice"),
    "timed-out": Meaning("The file kept a worker busy beyond the time limit, twice"),
    "bad-labels": Meaning("The labels that come with the image are missing, damaged or of another form"),
    "unexpected-error": Meaning("An error that this program did not foresee", "please report it with the file"),
    # faces
    "no-face": Meaning("The detector found no face at or above the score asked for"),
    "face-too-small": Meaning("Every face is below the size asked for", "--min-face"),
    "no-landmarks": Meaning(
        "The detector is not sure of the face and the landmark model does not see it", "--min-presence"
    ),
    "no-placement": Meaning("The points of the face coincide, so no crop can be placed"),
    "several-faces": Meaning("More than one face, where pictures of one person were asked for", "--faces largest"),
    # the set as a whole
    "taken-down": Meaning("Withdrawn from this set before; it does not come back"),
    "resembles-taken-down": Meaning(
        "Nearly the perceptual hash of a face that was withdrawn, so perhaps a copy of it",
        "if it shows somebody else, curate it into another set",
    ),
    "duplicate": Meaning("The same bytes as another file, which was kept"),
    "near-duplicate": Meaning(
        "A copy of another picture by its looks, which is better and was kept", "--near-duplicates keep"
    ),
    # screening
    "small": Meaning("The face has fewer pixels than the policy asks for", "--policy"),
    "unsure-detector": Meaning("The detector is less sure of the face than the policy asks for", "--policy"),
    "dark": Meaning("The face is darker than the policy allows", "--policy"),
    "overexposed": Meaning("The face is brighter than the policy allows, or washed out", "--policy"),
    "flat": Meaning("The face has less contrast than the policy asks for", "--policy"),
    "blurred": Meaning("The face is less sharp than the policy asks for", "--policy"),
    "turned": Meaning("The face is turned further than the policy allows", "--policy"),
    "occluded": Meaning("The landmark models disagree or do not see a whole face", "--policy"),
    "low-quality": Meaning("The quality score is below the policy's", "--policy"),
}
"""Reasons of a file of which no face is kept."""

MARKS = (
    *("near-duplicate", "small", "unsure-detector", "dark", "overexposed", "flat", "blurred", "turned"),
    *("occluded", "low-quality"),
)
"""Reasons given over the whole set at the end of a run; the crop of such a face stays in its shard."""

FACE_REASONS: dict[str, Meaning] = {
    "not-largest": Meaning("Another face of the picture is larger", "--faces all keeps every face"),
    "face-too-small": FILE_REASONS["face-too-small"],
    "no-landmarks": FILE_REASONS["no-landmarks"],
    "no-placement": FILE_REASONS["no-placement"],
    **{name: FILE_REASONS[name] for name in MARKS},
}
"""Reasons of a face that is left out of a picture of which another face is kept."""

RETRIED = frozenset(
    {
        "unreadable",
        "timed-out",
        "out-of-memory",
        "crashed-decoder",
        "unexpected-error",
        "unreachable",
        "needs-a-package",
    }
)
"""Reasons that may be gone at the next run although the file has not changed, so the file is tried again."""
