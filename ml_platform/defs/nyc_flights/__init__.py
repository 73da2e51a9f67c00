"""The worked example: arrival delays of the flights that left New York in 2013."""
