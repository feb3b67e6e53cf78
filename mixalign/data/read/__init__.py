"""Files and data sets in any known format to examples."""
