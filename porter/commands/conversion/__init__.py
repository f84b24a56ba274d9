"""Parts of `porter.commands.convert`: the proof, and the record of where weights come from."""
