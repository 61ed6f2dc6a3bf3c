"""The page of `dgpo report`: a run, or several laid over each other. Pure: records in, HTML out."""
