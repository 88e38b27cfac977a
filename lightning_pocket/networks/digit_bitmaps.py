"""Pictures of the ten digits for the output of LeNet-5."""

from functools import cache

#: Twelve rows of seven pixels for each digit, side by side.
_ROWS = (
    " ##### |   #   | ##### |#######|     # |#######| ##### |#######| ##### | ##### ",
    "##   ##|  ##   |##   ##|#     #|    ## |##     |##   ##|##   ##|##   ##|##   ##",
    "##   ##| ###   |     ##|    ## |   ### |##     |##     |     ##|##   ##|##   ##",
    "##   ##|  ##   |     ##|   ##  |  #### |##     |##     |     # |##   ##|##   ##",
    "##   ##|  ##   |    ## |  ###  | ## ## |###### |###### |    ## | ##### |##   ##",
    "##   ##|  ##   |   ##  |     ##|##  ## |     ##|##   ##|    ## |##   ##| ######",
    "##   ##|  ##   |  ##   |     ##|#######|     ##|##   ##|   ##  |##   ##|     ##",
    "##   ##|  ##   | ##    |     ##|    ## |     ##|##   ##|   ##  |##   ##|     ##",
    "##   ##|  ##   |##     |     ##|    ## |     ##|##   ##|  ##   |##   ##|     ##",
    "##   ##|  ##   |##     |##   ##|    ## |##   ##|##   ##|  ##   |##   ##|##   ##",
    "##   ##|  ##   |##   ##|##   ##|    ## |##   ##|##   ##|  ##   |##   ##|##   ##",
    " ##### |###### |#######| ##### |    ## | ##### | ##### |  ##   | ##### | ##### ",
)


@cache
def digit_bitmaps() -> tuple[tuple[float, ...], ...]:
    """Return the 84 pixels of each digit, row by row: 1 where it is drawn, -1 elsewhere."""
    rows = [row.split("|") for row in _ROWS]
    return tuple(tuple(1.0 if pixel == "#" else -1.0 for row in rows for pixel in row[digit]) for digit in range(10))
