"""Files scored with the model that serves: piece by piece in bounded memory, resumable, and in
shards that other machines may take.
"""
