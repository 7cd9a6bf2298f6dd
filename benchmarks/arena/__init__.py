"""The automatic plan against experts and peers, judged by what the compiler made of each."""
