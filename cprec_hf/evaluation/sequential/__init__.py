"""Sequential recommenders that know items by their numbers: GRU4Rec, SASRec, BERT4Rec, and SASRec begun from text.

A file a model, one trainer for all (`trainer`), trained on the corpus' training rows and chosen on its validation rows
(`fit`). What they rank is what every other method of an evaluation ranks.
"""
