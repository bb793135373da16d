// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { ERC20 } from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import { ERC20Permit } from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title The token of local chains and testnets: a fixed supply, and a faucet for a part of it.
/// @notice Has no owner and mints nothing after its construction. Not for a network where tokens are worth something:
/// one person with many addresses can empty the faucet.
contract TrainingToken is ERC20, ERC20Permit {
    event Dripped(address indexed account, uint256 amount);

    error FaucetTooSoon(uint256 readyAt);
    error FaucetEmpty();

    /// @notice What one `drip` gives.
    uint256 public immutable dripAmount;

    /// @notice Seconds that an address waits between two drips.
    uint256 public immutable dripInterval;

    /// @notice When the account may call `drip` again; in the past, or 0, if it may now.
    mapping(address account => uint256) public nextDripAt;

    /// @param initialSupply minted to the deployer.
    /// @param faucetSupply minted to this contract, for the faucet. Whoever sends tokens here refills it.
    constructor(uint256 initialSupply, uint256 faucetSupply, uint256 dripAmount_, uint256 dripInterval_)
        ERC20("chainfl training token", "CFL")
        ERC20Permit("chainfl training token")
    {
        dripAmount = dripAmount_;
        dripInterval = dripInterval_;
        _mint(msg.sender, initialSupply);
        _mint(address(this), faucetSupply);
    }

    /// @notice Gives the caller `dripAmount`, once an interval.
    /// @dev Reverts FaucetTooSoon, FaucetEmpty when less than a whole drip is left.
    function drip() external {
        // Check
        uint256 readyAt = nextDripAt[msg.sender];
        if (block.timestamp < readyAt) revert FaucetTooSoon(readyAt);
        if (balanceOf(address(this)) < dripAmount) revert FaucetEmpty();

        // Effect
        nextDripAt[msg.sender] = block.timestamp + dripInterval;
        emit Dripped(msg.sender, dripAmount);
        _transfer(address(this), msg.sender, dripAmount);
    }
}
