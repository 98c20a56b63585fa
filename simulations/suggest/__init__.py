"""`job suggest`: settings of a job, each with the trial that speaks for it, from records that anybody may see."""
