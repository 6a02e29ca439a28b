"""The rows of the contract table: a file for each topic package, or for each subject of a large one."""
