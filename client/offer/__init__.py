"""What is offered to a site, judged before a record is touched: policy, bounds, cost, and who says yes."""
