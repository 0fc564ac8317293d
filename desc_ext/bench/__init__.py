"""Speed of the operators on this machine beside plain torch: what ``desc-ext bench`` and ``make bench`` measure with."""
