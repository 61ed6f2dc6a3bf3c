"""The live panel of a training run: what is known of it (`state`) as lines of text (`layout`)."""
