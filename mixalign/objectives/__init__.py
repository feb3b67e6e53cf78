"""What a batch's losses are: DPO and its relatives, KTO and SFT."""
